@echo off
rem Starts install.ps1 beside this file; PowerShell opens no script by a double click. Everything after it is passed on.
powershell.exe -NoLogo -NoProfile -ExecutionPolicy Bypass -File "%~dp0install.ps1" %*
set "code=%ERRORLEVEL%"
if "%~1"=="" pause
exit /b %code%

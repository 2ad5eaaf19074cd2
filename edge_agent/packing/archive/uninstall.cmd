@echo off
rem Starts uninstall.ps1 beside this file. It is copied first: a batch file cannot go on once it is removed itself.
set "copy=%TEMP%\scopewatch-uninstall-%RANDOM%.ps1"
copy /y "%~dp0uninstall.ps1" "%copy%" >nul || exit /b 1
powershell.exe -NoLogo -NoProfile -ExecutionPolicy Bypass -File "%copy%" -From "%~dp0." %* & del "%copy%" & exit /b

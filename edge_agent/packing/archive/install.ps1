<#
.SYNOPSIS
Installs scopewatch @VERSION@ from this folder, without a network.

.DESCRIPTION
An older version that is there is replaced once the new one has passed its check; settings and models stay.
Without administrator rights it is installed for the current user.

.PARAMETER Prefix
Where it is installed; otherwise %ProgramFiles%\scopewatch for an administrator, %LOCALAPPDATA%\Programs\scopewatch
for others.

.PARAMETER User
Install for the current user although this is an administrator.

.PARAMETER Python
The python.exe of version @PYTHON@ to use, where this archive carries none.

.PARAMETER Service
Folders to watch, separated by semicolons: the agent is started with the PC (administrator), or when you log on.

.EXAMPLE
install.cmd -Service "D:\Acquisitions"
#>
[CmdletBinding()]
param(
    [string] $Prefix = '',
    [switch] $User,
    [string] $Python = '',
    [string] $Service = ''
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$version = '@VERSION@'
$wanted = '@PYTHON@'
$digits = '@DIGITS@'
$pip = '@PIP@'
$runtime = '@RUNTIME@'
$here = $PSScriptRoot

function Stop-Install([string] $Message, [int] $Code = 1) {
    [Console]::Error.WriteLine("install.ps1: $Message")
    exit $Code
}

# Windows PowerShell 5 takes every line on stderr for an error as soon as stderr is redirected.
function Get-Words([string] $Program, [string[]] $Arguments) {
    $ErrorActionPreference = 'Continue'
    return ((& $Program @Arguments 2>&1 | ForEach-Object { "$_" }) -join "`n")
}

function Test-Python([string] $Program) {
    if (-not $Program) { return $false }
    $ErrorActionPreference = 'Continue'
    try {
        $seen = & $Program -c "import struct, sys; print('%d.%d %d' % (*sys.version_info[:2], struct.calcsize('P') * 8))" 2>$null
    } catch {
        return $false
    }
    return ("$seen".Trim() -eq "$wanted 64")
}

function Find-Python {
    $places = @()
    foreach ($root in 'HKCU:\Software\Python\PythonCore', 'HKLM:\Software\Python\PythonCore') {
        $key = Join-Path $root "$wanted\InstallPath"
        if (Test-Path -LiteralPath $key) {
            $folder = (Get-Item -LiteralPath $key).GetValue('')
            if ($folder) { $places += (Join-Path $folder 'python.exe') }
        }
    }
    $places += "$env:ProgramFiles\Python$digits\python.exe"
    $places += "$env:LOCALAPPDATA\Programs\Python\Python$digits\python.exe"
    foreach ($command in @(Get-Command -Name 'python.exe' -CommandType Application -ErrorAction SilentlyContinue)) {
        # What the Microsoft Store puts there is no Python.
        if ($command.Path -notlike '*\WindowsApps\*') { $places += $command.Path }
    }
    foreach ($place in $places) {
        if ((Test-Path -LiteralPath $place) -and (Test-Python $place)) { return $place }
    }
    return ''
}

function Get-OwnPython([string] $Folder) {
    $embedded = Join-Path $Folder 'env\python.exe'
    if (Test-Path -LiteralPath $embedded) { return $embedded }
    return (Join-Path $Folder 'env\Scripts\python.exe')
}

function Get-CurrentTarget {
    $link = Get-Item -LiteralPath $current -Force -ErrorAction SilentlyContinue
    if ($null -eq $link) { return '' }
    return [string] (@($link.Target)[0])
}

function Switch-Current([string] $Folder) {
    # Directory.Delete takes the junction away and leaves alone what it leads to.
    if (Test-Path -LiteralPath $current) { [IO.Directory]::Delete($current) }
    New-Item -ItemType Junction -Path $current -Target $Folder | Out-Null
}

# ---- may it be installed here at all ----

$identity = [Security.Principal.WindowsPrincipal] [Security.Principal.WindowsIdentity]::GetCurrent()
$isAdministrator = $identity.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
$ownOnly = $User -or -not $isAdministrator
if (-not $Prefix) {
    if ($ownOnly) { $Prefix = "$env:LOCALAPPDATA\Programs\scopewatch" } else { $Prefix = "$env:ProgramFiles\scopewatch" }
}
$Prefix = [IO.Path]::GetFullPath([IO.Path]::Combine((Get-Location).ProviderPath, $Prefix))
$current = Join-Path $Prefix 'current'
$record = Join-Path $Prefix 'installed.txt'
if (-not [Environment]::Is64BitOperatingSystem) { Stop-Install 'this Windows is 32-bit; the archive is for 64-bit' }
$folders = @($Service.Split(';') | Where-Object { $_ })
foreach ($folder in $folders) {
    if (-not (Test-Path -LiteralPath $folder -PathType Container)) { Stop-Install "$folder : no such folder" 2 }
}

Write-Output 'checking the archive ...'
foreach ($line in [IO.File]::ReadAllLines((Join-Path $here 'SHA256SUMS'))) {
    if ($line -notmatch '^([0-9a-f]{64})  (.+)$') { Stop-Install 'SHA256SUMS is damaged; copy the archive again' }
    $sum, $name = $Matches[1], $Matches[2]
    $file = Join-Path $here $name.Replace('/', '\')
    if (-not (Test-Path -LiteralPath $file)) {
        Stop-Install "$name is missing; copy the archive again and unpack it anew"
    }
    if ((Get-FileHash -LiteralPath $file -Algorithm SHA256).Hash -ne $sum) {
        Stop-Install "$name differs from SHA256SUMS; copy the archive again and unpack it anew"
    }
}
if ((Test-Path -LiteralPath $Prefix) -and -not (Test-Path -LiteralPath $record) -and
    @(Get-ChildItem -LiteralPath $Prefix -Force).Count -gt 0) {
    Stop-Install "$Prefix : holds something that is not scopewatch; choose another folder with -Prefix" 2
}
try {
    New-Item -ItemType Directory -Force -Path (Join-Path $Prefix 'versions'), (Join-Path $Prefix 'bin') | Out-Null
} catch {
    Stop-Install "$Prefix : cannot be made ($($_.Exception.Message)); start this as administrator, or give -User"
}
$freeMb = [Math]::Floor(([IO.DriveInfo] [IO.Path]::GetPathRoot($Prefix)).AvailableFreeSpace / 1048576)
if ($freeMb -lt 600) { Stop-Install "$Prefix : $freeMb MB free on this disk; 600 MB are needed" }

# ---- the new version, beside whatever is there ----

$old = Get-CurrentTarget
$number = 1
while (Test-Path -LiteralPath (Join-Path $Prefix "versions\$version-$number")) { $number++ }
$new = Join-Path $Prefix "versions\$version-$number"
$isSwitched = $false
$environment = Join-Path $new 'env'
try {
    New-Item -ItemType Directory -Path $new | Out-Null
    if ($runtime -and -not $Python) {
        Write-Output "unpacking Python $wanted ..."
        Add-Type -AssemblyName System.IO.Compression.FileSystem
        [IO.Compression.ZipFile]::ExtractToDirectory((Join-Path $here "runtime\$runtime"), $environment)
        # As python.org describes: packages lie in Lib\site-packages, and `import site` makes them be found.
        $lines = "python$digits.zip", '.', 'Lib\site-packages', '', 'import site'
        [IO.File]::WriteAllLines((Join-Path $environment "python$digits._pth"), $lines)
        New-Item -ItemType Directory -Path (Join-Path $environment 'Lib\site-packages') | Out-Null
    } else {
        if (-not $Python) { $Python = Find-Python }
        if (-not $Python) {
            Stop-Install ("no 64-bit Python $wanted on this PC (looked in the registry, Program Files, AppData and " +
                'PATH): install it, name its python.exe with -Python, or make the archive with --python-runtime')
        }
        if (-not (Test-Python $Python)) { Stop-Install "$Python : is not a 64-bit Python $wanted" 2 }
        & $Python -I -m venv --without-pip $environment
        if ($LASTEXITCODE -ne 0) { Stop-Install "$Python : cannot make a virtual environment" }
    }
    $own = Get-OwnPython $new
    Write-Output "installing scopewatch $version into $Prefix ..."
    & $own -I (Join-Path $here "pip\$pip\pip") --isolated --quiet install --no-index --no-deps --require-hashes `
        --no-cache-dir --disable-pip-version-check --no-warn-script-location `
        --find-links (Join-Path $here 'wheels') --requirement (Join-Path $here 'requirements.txt')
    if ($LASTEXITCODE -ne 0) { Stop-Install 'the packages were not installed; the lines above say why' }
    foreach ($name in 'LICENCES.md', 'README.txt', 'sbom.cdx.json', 'licences') {
        Copy-Item -LiteralPath (Join-Path $here $name) -Destination $new -Recurse
    }
    Write-Output 'checking that it computes what it should on this PC ...'
    # With no settings: a mistake in those that are there must not keep a good version out.
    $nothing = Join-Path $new 'no settings.toml'
    [IO.File]::WriteAllText($nothing, '')
    & $own -I -m edge_agent check --config $nothing
    if ($LASTEXITCODE -ne 0) {
        Stop-Install ('the new version did not pass its check; nothing was changed. Where a line above says "DLL load ' +
            'failed", install the Microsoft Visual C++ Redistributable (vc_redist.x64.exe) first')
    }

    # ---- from here on it is installed ----

    $options = @()
    if ($ownOnly) { $options += '--user' }
    $hadService = 'no'
    $settingsOf = @()
    if ($old) {
        $said = Get-Words (Get-OwnPython $current) (@('-P', '-m', 'edge_agent', 'service', 'status') + $options)
        if ($said -match '(?m)^service\s+(\S+)') {
            $hadService = 'stopped'
            if ($Matches[1] -in 'running', 'a') { $hadService = 'running' }
            if ($said -match '(?m)^config\s+(\S.*?)\s*$') { $settingsOf = @('--config', $Matches[1]) }
        }
    }
    $command = Join-Path $Prefix 'bin\edge-agent.cmd'
    [IO.File]::WriteAllLines($command, @(
            '@echo off',
            'setlocal',
            'set "program=%~dp0..\current\env\Scripts\python.exe"',
            'if exist "%~dp0..\current\env\python.exe" set "program=%~dp0..\current\env\python.exe"',
            '"%program%" -P -m edge_agent %*'
        ))
    foreach ($name in 'uninstall.ps1', 'uninstall.cmd') {
        Copy-Item -LiteralPath (Join-Path $here $name) -Destination $Prefix -Force
    }
    $mode = 'mode no'
    if ($ownOnly) { $mode = 'mode yes' }
    if (-not (Test-Path -LiteralPath $record)) { [IO.File]::WriteAllLines($record, @($mode)) }
    if ($hadService -eq 'running') {
        Get-Words (Get-OwnPython $current) (@('-P', '-m', 'edge_agent', 'service', 'stop') + $options) | Out-Null
    }
    Switch-Current $new
    $isSwitched = $true
} finally {
    if (-not $isSwitched) {
        Remove-Item -LiteralPath $new -Recurse -Force -ErrorAction SilentlyContinue
        if (-not $old -and -not (Test-Path -LiteralPath $record)) {
            Remove-Item -LiteralPath $Prefix -Recurse -Force -ErrorAction SilentlyContinue
        }
    }
}

# What lies behind `current` is found again after the next upgrade, so a service must be told that path.
$own = Get-OwnPython $current
$run = @('-P', '-m', 'edge_agent')
$settings = Join-Path $here 'config.toml'
if (Test-Path -LiteralPath $settings) { & $own -P -m edge_agent.packing.installing config $settings @options }
if ($folders.Count -gt 0) {
    & $own @run service install @options @folders
} elseif ($hadService -eq 'running') {
    & $own @run service install @options @settingsOf
} elseif ($hadService -eq 'stopped') {
    & $own @run service install @options --no-start @settingsOf
} else {
    $global:LASTEXITCODE = 0
}
if ($LASTEXITCODE -ne 0) {
    if (-not $old) { Stop-Install 'it is installed, but the service is not; the lines above say why' }
    Switch-Current $old
    if ($hadService -ne 'no') { & (Get-OwnPython $current) @run service install @options @settingsOf }
    Remove-Item -LiteralPath $new -Recurse -Force -ErrorAction SilentlyContinue
    Stop-Install "the service did not start with $version; the version before is back in its place"
}
$configOf = @()
$ofThisPc = "$env:ProgramData\scopewatch\agent.toml"
if (-not $ownOnly -and (Test-Path -LiteralPath $ofThisPc)) { $configOf = @('--config', $ofThisPc) }
$models = Join-Path $here 'models'
if (Test-Path -LiteralPath $models) {
    foreach ($model in @(Get-ChildItem -LiteralPath $models -Directory)) {
        & $own @run models add $model.FullName @configOf
        if ($LASTEXITCODE -ne 0) { Stop-Install "$model : was not added; the version without it is installed" }
    }
}
foreach ($folder in @(Get-ChildItem -LiteralPath (Join-Path $Prefix 'versions') -Directory)) {
    if ($folder.FullName -ne $new) {
        # What is still running cannot be removed on Windows; the next installation tries again.
        Remove-Item -LiteralPath $folder.FullName -Recurse -Force -ErrorAction SilentlyContinue
    }
}
Write-Output "scopewatch $version is installed: $Prefix"
if ($folders.Count -eq 0 -and $hadService -eq 'no') {
    Write-Output 'next:'
    Write-Output "  is this PC fit                 `"$command`" doctor"
    Write-Output "  one file, once                 `"$command`" classify FILE.dm3"
    Write-Output "  every new file, until Ctrl-C   `"$command`" watch FOLDER"
    Write-Output "  every new file, from now on    `"$command`" service install $options FOLDER"
}
Write-Output "remove it again:  `"$(Join-Path $Prefix 'uninstall.cmd')`""

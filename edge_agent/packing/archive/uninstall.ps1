<#
.SYNOPSIS
Removes scopewatch with everything that installing and running it made, but no sidecar and no heatmap. Asks nothing.

.PARAMETER KeepSettings
Keep configuration, models, journal and log.

.PARAMETER Prefix
The folder it is installed in; otherwise the one this script lies in, or the usual one.

.PARAMETER From
Where this script lay before uninstall.cmd copied it.
#>
[CmdletBinding()]
param(
    [switch] $KeepSettings,
    [string] $Prefix = '',
    [string] $From = ''
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Stop-Uninstall([string] $Message, [int] $Code = 1) {
    [Console]::Error.WriteLine("uninstall.ps1: $Message")
    exit $Code
}

# Windows PowerShell 5 takes every line on stderr for an error as soon as stderr is redirected.
function Get-Words([string] $Program, [string[]] $Arguments) {
    $ErrorActionPreference = 'Continue'
    return ((& $Program @Arguments 2>&1 | ForEach-Object { "$_" }) -join "`n")
}

if (-not $Prefix) {
    $places = @($From, $PSScriptRoot, "$env:LOCALAPPDATA\Programs\scopewatch", "$env:ProgramFiles\scopewatch")
    foreach ($place in $places) {
        if ($place -and (Test-Path -LiteralPath (Join-Path $place 'installed.txt'))) { $Prefix = $place; break }
    }
}
if (-not $Prefix -or -not (Test-Path -LiteralPath (Join-Path $Prefix 'installed.txt'))) {
    Stop-Uninstall 'no installation of scopewatch found; name its folder with -Prefix' 2
}
$Prefix = [IO.Path]::GetFullPath([IO.Path]::Combine((Get-Location).ProviderPath, $Prefix))
$current = Join-Path $Prefix 'current'
$options = @()
if (@([IO.File]::ReadAllLines((Join-Path $Prefix 'installed.txt'))) -contains 'mode yes') { $options += '--user' }
$own = Join-Path $current 'env\python.exe'
if (-not (Test-Path -LiteralPath $own)) { $own = Join-Path $current 'env\Scripts\python.exe' }
Set-Location -LiteralPath $env:SystemRoot

if (Test-Path -LiteralPath $own) {
    $run = @('-P', '-m', 'edge_agent')
    $goodbye = $run + @('service', 'uninstall') + $options
    if (-not $KeepSettings) { $goodbye += '--purge' }
    if ((Get-Words $own ($run + @('service', 'status') + $options)) -match '(?m)^service\s') {
        & $own @goodbye
        if ($LASTEXITCODE -ne 0) {
            Stop-Uninstall 'the service was not removed whole; the lines above say why. Run this again afterwards'
        }
    }
    Get-Words $own ($run + 'status') | Out-Null
    if ($LASTEXITCODE -eq 0) {
        Stop-Uninstall 'an agent is still running; stop it (Ctrl-C where it runs) and run this again'
    }
    if (-not $KeepSettings) { & $own -P -m edge_agent.packing.installing leftovers @options }
}
# Directory.Delete takes the junction away and leaves alone what it leads to.
if (Test-Path -LiteralPath $current) { [IO.Directory]::Delete($current) }
foreach ($name in 'versions', 'bin', 'uninstall.cmd', 'uninstall.ps1', 'installed.txt') {
    $path = Join-Path $Prefix $name
    if (Test-Path -LiteralPath $path) { Remove-Item -LiteralPath $path -Recurse -Force }
}
if (@(Get-ChildItem -LiteralPath $Prefix -Force).Count -eq 0) {
    Remove-Item -LiteralPath $Prefix -Force
} else {
    Write-Output "$Prefix : stays, because something else lies in it"
}
Write-Output 'scopewatch is removed; sidecars (*.json) and heatmaps (*.heatmap.png) stay where they are'

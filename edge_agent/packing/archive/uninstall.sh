#!/bin/sh
# Removes scopewatch with everything that installing and running it made, but no sidecar and no heatmap. Asks nothing.
# --keep-settings keeps configuration, models, journal and log.
set -eu

say() { printf '%s\n' "$1"; }
fail() {
  printf 'uninstall.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
export PATH
[ -n "${HOME:-}" ] || HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
export HOME
prefix='' keep=no
while [ $# -gt 0 ]; do
  case $1 in
    --keep-settings) keep=yes; shift ;;
    --prefix) [ $# -ge 2 ] || fail '--prefix needs a folder' 2; prefix=$2; shift 2 ;;
    --help | -h) say 'usage: sh uninstall.sh [--keep-settings] [--prefix DIR]'; exit 0 ;;
    *) fail "$1: not known; usage: sh uninstall.sh [--keep-settings] [--prefix DIR]" 2 ;;
  esac
done
if [ -z "$prefix" ]; then
  prefix=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
  if [ ! -f "$prefix/installed.txt" ]; then # run from the archive
    prefix=/opt/scopewatch
    [ "$(id -u)" = 0 ] || prefix=${XDG_DATA_HOME:-$HOME/.local/share}/scopewatch
  fi
fi
[ -f "$prefix/installed.txt" ] || fail "$prefix: no installation of scopewatch; name its folder with --prefix" 2
[ -w "$prefix" ] || fail "$prefix: may not be changed; run this as the user who installed it, or as root"
cd /

python=$prefix/current/env/bin/python
user=$(sed -n 's/^mode //p' "$prefix/installed.txt")
service_options=''
[ "$user" = no ] || service_options=--user
[ $keep = yes ] || purge=--purge
if [ -x "$python" ]; then
  # shellcheck disable=SC2086 # each is empty or one word
  case $("$python" -P -m edge_agent service status $service_options 2>&1 || true) in
    *'service       '*)
      "$python" -P -m edge_agent service uninstall $service_options ${purge:-} \
        || fail 'the service was not removed whole; the lines above say why. Run this again afterwards'
      ;;
  esac
  if "$python" -P -m edge_agent status >/dev/null 2>&1; then
    fail 'an agent is still running; stop it (Ctrl-C where it runs) and run this again'
  fi
  # shellcheck disable=SC2086
  [ $keep = yes ] || "$python" -P -m edge_agent.packing.installing leftovers $service_options
fi

sed -n 's/^link //p' "$prefix/installed.txt" | while IFS= read -r link; do
  [ "$(readlink -- "$link" 2>/dev/null)" != "$prefix/bin/edge-agent" ] || rm -f -- "$link"
done
folders=$(sed -n 's/^folder //p' "$prefix/installed.txt")
rm -rf -- "${prefix:?}/versions" "${prefix:?}/bin"
rm -f -- "$prefix/current" "$prefix/current.new" "$prefix/installed.txt" "$prefix/uninstall.sh"
rmdir -- "$prefix" 2>/dev/null || say "$prefix: stays, because something else lies in it"
# Deepest first, and only where nothing else lies in them by now.
printf '%s\n' "$folders" | sort -r | while IFS= read -r folder; do
  [ -z "$folder" ] || rmdir -- "$folder" 2>/dev/null || true
done
say 'scopewatch is removed; sidecars (*.json) and heatmaps (*.heatmap.png) stay where they are'

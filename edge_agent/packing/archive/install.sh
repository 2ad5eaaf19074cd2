#!/bin/sh
# Installs scopewatch @VERSION@ from this folder, without a network. `sh install.sh --help` says how.
set -eu

VERSION='@VERSION@'
PYTHON='@PYTHON@'
PIP='@PIP@'
RUNTIME='@RUNTIME@'

usage() {
  cat <<END
usage: sh install.sh [--prefix DIR] [--user] [--python FILE] [--service FOLDER...]

  --prefix DIR         where it is installed; otherwise /opt/scopewatch for root, ~/.local/share/scopewatch for others
  --user               as for others, although you are root
  --python FILE        the Python $PYTHON to use, where this archive carries none
  --service FOLDER...  start the agent with the PC (as root) or with your log-in, watching these folders
An older version that is there is replaced once the new one has passed its check; settings and models stay.
END
}

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

say() { printf '%s\n' "$1"; }

# ---- what was asked for ----

PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
export PATH
[ -n "${HOME:-}" ] || HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
export HOME
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix='' python='' service=no user=no
[ "$(id -u)" = 0 ] || user=yes
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) [ $# -ge 2 ] || fail '--prefix needs a folder' 2; prefix=$2; shift 2 ;;
    --python) [ $# -ge 2 ] || fail '--python needs a file' 2; python=$2; shift 2 ;;
    --user) user=yes; shift ;;
    --service) service=yes; shift; break ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "$1: not known" 2 ;;
  esac
done
# Whatever still stands in "$@" is a folder to watch.
for folder in "$@"; do
  case $folder in --*) fail "$folder: options stand before --service" 2 ;; esac
  [ -d "$folder" ] || fail "$folder: no such folder; --service takes the folders to watch" 2
done
if [ $user = yes ]; then
  : "${prefix:=${XDG_DATA_HOME:-$HOME/.local/share}/scopewatch}"
  links=$HOME/.local/bin
else
  : "${prefix:=/opt/scopewatch}"
  links=/usr/local/bin
fi
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
case $prefix in *\'* | *"
"*) fail "$prefix: a folder without quotes and line breaks in its name, please" 2 ;; esac

# ---- may it be installed here at all ----

[ "$(uname -m)" = x86_64 ] || fail "this PC is $(uname -m); the archive is for x86_64"
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
case ${glibc:-none} in
  none) fail 'this system has no GNU libc (Alpine?); the archive needs glibc 2.28 or newer' ;;
  2.[0-9] | 2.1[0-9] | 2.2[0-7]) fail "this system has glibc $glibc; the archive needs 2.28 or newer" ;;
esac
say 'checking the archive ...'
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) \
  || fail "$here: a file is missing or differs from SHA256SUMS; copy the archive again and unpack it anew"

if [ -e "$prefix" ] && [ ! -f "$prefix/installed.txt" ] && [ -n "$(ls -A "$prefix" 2>/dev/null)" ]; then
  fail "$prefix: holds something that is not scopewatch; choose another folder with --prefix" 2
fi
made=''
note_new_folders() { # remembers which folders above and at $1 are not there yet: uninstall takes them away again
  folder=$1
  while [ ! -e "$folder" ]; do
    made="$made$folder
"
    folder=$(dirname -- "$folder")
  done
}
note_new_folders "$prefix"
note_new_folders "$links"
if [ $user = yes ]; then
  note_new_folders "${XDG_STATE_HOME:-$HOME/.local/state}"
  note_new_folders "${XDG_CONFIG_HOME:-$HOME/.config}"
fi
mkdir -p -- "$prefix/versions" 2>/dev/null || fail "$prefix: cannot be made; run this as root, or with --user or --prefix"
[ -w "$prefix" ] || fail "$prefix: may not be written; run this as root, or with --user or --prefix"
free_kb=$(df -Pk -- "$prefix" | awk 'NR == 2 { print $4 }')
[ "$free_kb" -ge 614400 ] || fail "$prefix: $((free_kb / 1024)) MB free on this disk; 600 MB are needed"

# ---- the new version, beside whatever is there ----

old=$(readlink -- "$prefix/current" 2>/dev/null || true)
number=1
while [ -e "$prefix/versions/$VERSION-$number" ]; do number=$((number + 1)); done
new=versions/$VERSION-$number
undo() {
  [ -z "${new:-}" ] || [ "$(readlink -- "$prefix/current" 2>/dev/null)" = "$new" ] || rm -rf -- "${prefix:?}/$new"
  if [ -z "$old" ] && [ ! -e "$prefix/current" ]; then
    rmdir -- "$prefix/versions" "$prefix" 2>/dev/null || true
  fi
}
trap undo EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

right() { # whether $1 is a Python of the right version
  [ -n "$1" ] && [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$PYTHON" ]
}
mkdir -- "$prefix/$new"
if [ -n "$RUNTIME" ] && [ -z "$python" ]; then
  say "unpacking Python $PYTHON ..."
  tar -xzf "$here/runtime/$RUNTIME" -C "$prefix/$new" || fail "$here/runtime/$RUNTIME: cannot be unpacked"
  python=$prefix/$new/python/bin/python$PYTHON
  right "$python" || fail "$here/runtime/$RUNTIME: its Python does not run on this system"
elif [ -n "$python" ]; then
  right "$python" || fail "$python: is not Python $PYTHON" 2
else
  python=$(command -v "python$PYTHON" || command -v python3 || true)
  right "$python" || fail "no Python $PYTHON on this PC (looked for python$PYTHON and python3 in $PATH): \
install it, name it with --python FILE, or make the archive with --python-runtime"
fi
say "installing scopewatch $VERSION into $prefix ..."
"$python" -I -m venv --without-pip "$prefix/$new/env" || fail "$python: cannot make a virtual environment (module venv)"
own=$prefix/$new/env/bin/python
# pip asks a rustc on the PATH for its version, and rustup then settles in the home.
(cd / && PATH=/usr/bin:/bin "$own" -I "$here/pip/$PIP/pip" --isolated --quiet install --no-index --no-deps --require-hashes \
  --no-cache-dir --disable-pip-version-check --find-links "$here/wheels" --requirement "$here/requirements.txt") \
  || fail "the packages were not installed; the lines above say why"
cp -- "$here/LICENCES.md" "$here/README.txt" "$here/sbom.cdx.json" "$prefix/$new/"
cp -R -- "$here/licences" "$prefix/$new/"
say 'checking that it computes what it should on this PC ...'
# With no settings: a mistake in those that are there must not keep a good version out.
SCOPEWATCH_CONFIG="" "$own" -I -m edge_agent check || fail 'the new version did not pass its check; nothing was changed'

# ---- from here on it is installed ----

switch_to() { ln -sfn -- "$1" "$prefix/current.new" && mv -Tf -- "$prefix/current.new" "$prefix/current"; }
agent() { "$prefix/bin/edge-agent" "$@"; }
service_options=''
[ $user = no ] || service_options=--user

had_service=no settings=''
if [ -n "$old" ] && [ -x "$prefix/bin/edge-agent" ]; then
  # shellcheck disable=SC2086 # empty, or one word
  said=$(agent service status $service_options 2>&1) && had_service=running
  settings=$(printf '%s\n' "$said" | sed -n 's/^config  *//p' | head -n 1)
  case $said in
    *'service       active'*) had_service=running ;;
    *'service       '*) [ $had_service = running ] || had_service=stopped ;;
  esac
fi
mkdir -p -- "$prefix/bin" "$links"
cat >"$prefix/bin/edge-agent.new" <<END
#!/bin/sh
exec '$prefix/current/env/bin/python' -P -m edge_agent "\$@"
END
chmod 755 "$prefix/bin/edge-agent.new"
mv -f -- "$prefix/bin/edge-agent.new" "$prefix/bin/edge-agent"
cp -- "$here/uninstall.sh" "$prefix/uninstall.sh"
link=$links/edge-agent
if [ ! -e "$link" ] || [ "$(readlink -- "$link")" = "$prefix/bin/edge-agent" ]; then
  ln -sfn -- "$prefix/bin/edge-agent" "$link"
else
  say "$link: is there already and stays; the command is $prefix/bin/edge-agent"
  link=''
fi
[ -f "$prefix/installed.txt" ] || {
  printf 'mode %s\n' "$user"
  printf '%s' "$made" | sed 's/^/folder /'
} >"$prefix/installed.txt"
[ -z "$link" ] || grep -qxF "link $link" "$prefix/installed.txt" || printf 'link %s\n' "$link" >>"$prefix/installed.txt"
switch_to "$new"

if [ -f "$here/config.toml" ]; then
  # shellcheck disable=SC2086 # empty, or one word
  "$own" -I -m edge_agent.packing.installing config "$here/config.toml" $service_options
fi
# The configuration that the service has; a path may hold blanks.
reinstall() {
  if [ -n "$settings" ]; then
    agent service install "$@" --config "$settings"
  else
    agent service install "$@"
  fi
}
go_back() {
  if [ -n "$old" ]; then
    switch_to "$old"
    # shellcheck disable=SC2086
    [ $had_service = no ] || reinstall $service_options || true
    rm -rf -- "${prefix:?}/$new"
    fail "the service did not start with $VERSION; the version before is back in its place"
  fi
  fail 'it is installed, but the service is not; the lines above say why'
}
# shellcheck disable=SC2086
if [ $service = yes ]; then
  agent service install $service_options "$@" || go_back
elif [ $had_service = running ]; then
  reinstall $service_options || go_back
elif [ $had_service = stopped ]; then
  reinstall $service_options --no-start || go_back
fi
# The service's store belongs to the service's account, which may not be able to read where this archive lies.
as_owner() {
  owner=$(stat -L -c '%u:%g' /var/lib/scopewatch 2>/dev/null || echo 0:0)
  if [ "$owner" = 0:0 ]; then
    "$@"
  else
    (cd / && setpriv --reuid="${owner%:*}" --regid="${owner#*:}" --clear-groups "$@")
  fi
}
for model in "$here"/models/*/; do
  [ -d "$model" ] || continue
  if [ $user = no ] && [ -f /etc/scopewatch/agent.toml ]; then
    copy=$prefix/$new/$(basename -- "$model")
    cp -R -- "$model" "$copy"
    as_owner "$prefix/bin/edge-agent" models add "$copy" --config /etc/scopewatch/agent.toml || copy=''
    rm -rf -- "${prefix:?}/$new/$(basename -- "$model")"
    [ -n "$copy" ]
  else
    agent models add "$model"
  fi || fail "$model: was not added; the version without it is installed"
done

for folder in "$prefix"/versions/*; do
  [ "$folder" = "$prefix/$new" ] && continue
  if [ $had_service = no ] && agent status >/dev/null 2>&1 && [ "$folder" = "$prefix/$old" ]; then
    say "an agent is still running with the old version; stop it and start it again ($folder goes with the next install)"
    continue
  fi
  rm -rf -- "$folder"
done
trap - EXIT
say "scopewatch $VERSION is installed: $prefix"
case ":$PATH:" in *":$links:"*) command=edge-agent ;; *) command=$prefix/bin/edge-agent ;; esac
if [ $service = no ] && [ $had_service = no ]; then
  say 'next:'
  say "  is this PC fit                 $command doctor"
  say "  one file, once                 $command classify FILE.dm3"
  say "  every new file, until Ctrl-C   $command watch FOLDER"
  say "  every new file, from now on    $command service install ${service_options:+$service_options }FOLDER"
fi
say "remove it again:  sh $prefix/uninstall.sh"

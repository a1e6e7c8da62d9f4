#!/usr/bin/env bash
# Makes this checkout ready to run: the Debian packages that are missing, then .venv with the locked set of Python packages.
#
#   scripts/setup.sh             all that `make demo` and `make test` need
#   scripts/setup.sh --runtime   only what the controller needs (no test tools)
#   scripts/setup.sh --mover     the same, and what `ebbtide mover nova` needs
#   scripts/setup.sh --bench     OVN as well, which `make bench` compares with
#
# Doing it again is quick and changes nothing; packages.sh says what becomes of what is there already, and of services.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly VENV=.venv
source scripts/packages.sh

# command=package. Commands are what counts: Open vSwitch that was built by hand is as good as Debian's.
needed=(ovsdb-server=openvswitch-common ovsdb-tool=openvswitch-common ovs-appctl=openvswitch-common) # for a private store
switches=(
  ip=iproute2 bridge=iproute2 nsenter=util-linux setsid=util-linux unshare=util-linux
  ovs-vswitchd=openvswitch-switch ovs-vsctl=openvswitch-switch
  ovsdb-client=openvswitch-common ovs-ofctl=openvswitch-common
)
lock=requirements-dev.lock
case "${1-}" in
  "") needed+=("${switches[@]}") ;;
  --runtime) lock=requirements.lock ;;
  --mover) lock=requirements-mover.lock ;;
  --bench) needed+=("${switches[@]}" ovn-northd=ovn-central ovn-nbctl=ovn-common ovn-controller=ovn-host) ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# ---- the virtual environment --------------------------------------------------------------------------------------------

stamp_of() { # what .venv is made from, where, and with which set
  { pwd -P; echo "$1"; cat "$1" pyproject.toml; } | sha256sum
}

is_ready() { # a larger set holds all of a smaller one
  local made each enough=0
  [[ -f $VENV/.ready && -x $VENV/bin/ebbtide ]] && "$VENV/bin/python" -c '' 2>/dev/null || return 1
  made=$(<"$VENV/.ready")
  for each in requirements.lock requirements-mover.lock requirements-dev.lock; do
    [[ $each != "$lock" ]] || enough=1
    ((!enough)) || [[ $made != "$(stamp_of "$each")" ]] || return 0
  done
  return 1
}

install_locked() {
  local pip=("$VENV/bin/python" -m pip install --quiet)
  say "the packages of $lock, each by its hash"
  "${pip[@]}" --require-hashes -r "$lock"
  # The build backend comes from the lock too (an environment made by Python 3.12 has none, an older one is too old).
  if [[ $lock != requirements-dev.lock ]]; then
    local backend
    backend=$(mktemp)
    awk '/^[^ #]/ { on = /^setuptools==/ } on' requirements-dev.lock >"$backend"
    "${pip[@]}" --require-hashes --no-deps -r "$backend"
    rm -f "$backend"
  fi
  "${pip[@]}" --no-deps --no-build-isolation --editable .
}

# ---- one after the other ------------------------------------------------------------------------------------------------

exec 9<"$0"
flock 9 # two runs at once would write into one .venv

mend
find_missing
if ((${#packages[@]} == 0)) && is_ready; then
  say "ready"
  exit 0
fi
((${#packages[@]} == 0)) || install_packages
if ! is_ready; then
  make_venv
  install_locked
  stamp_of "$lock" >"$VENV/.ready"
fi
say "done: $VENV/bin/ebbtide"

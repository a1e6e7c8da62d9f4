# How a setup makes this checkout ready: the Debian packages that are missing, and a virtual environment. Sourced by setup.sh and by
# setup-openstack.sh, which say first what they need: `needed` (command=package, ...) and VENV.
#
# What is there already is never restarted or configured, and it is upgraded only where a package that is missing needs it newer; the list that
# is printed before says so. A service that comes with a package we install is neither started nor enabled; a run that was killed in between is
# finished by the next, of either script.
#
# Index, mirror and proxy are those of the environment, of pip's configuration and of apt's. With EBBTIDE_SETUP_ROOT, which
# is for tests, what is asked and written outside this checkout is below that directory, but for what apt and dpkg do.
readonly ROOT=${EBBTIDE_SETUP_ROOT-}
export LC_ALL=C PATH="$PATH:$ROOT/usr/sbin:$ROOT/sbin" DEBIAN_FRONTEND=noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

readonly POLICY=$ROOT/usr/sbin/policy-rc.d MARK="placed by ebbtide's scripts/setup.sh"
# Packages that we began to add and whose services are not disabled yet. Written before apt runs, so that it outlives a kill.
readonly BEGUN=$ROOT/var/lib/ebbtide-setup.begun
readonly UNFINISHED=(unpacked half-configured triggers-awaited triggers-pending) # states of dpkg-query(1)
# Packages with services that are not to start at the next boot either: whoever uses them here starts instances of its own.
readonly SERVING='^(openvswitch-|ovn-|mariadb-server|rabbitmq-server|erlang-base)'

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }

# ---- what is missing ----------------------------------------------------------------------------------------------------

find_python() { # sets `python` to the first one that is new enough
  local candidate
  python=
  for candidate in ${PYTHON-} python3.11 python3 python3.12 python3.13; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      return
    fi
  done
}

find_missing() { # sets `packages` to what must be installed, `reasons` to why
  local pair command
  packages=() reasons=()
  for pair in "${needed[@]}"; do
    command=${pair%%=*}
    if ! type -P "$command" >/dev/null; then
      packages+=("${pair#*=}") reasons+=("$command")
    fi
  done
  if [[ ! -x $VENV/bin/python ]]; then
    find_python
    if [[ -z $python ]]; then
      packages+=(python3 python3-venv) reasons+=("Python 3.11 or newer")
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      packages+=(python3-venv) reasons+=("$python: module venv or ensurepip")
    fi
  fi
  if ((${#packages[@]})); then
    mapfile -t packages <<<"$(printf '%s\n' "${packages[@]}" | sort -u)"
  fi
}

# ---- Debian packages ----------------------------------------------------------------------------------------------------

apt_get() { apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null; } # at a first boot others install as well

apt_install() { apt_get -y --no-install-recommends --no-upgrade --no-remove "$@" install "${packages[@]}"; }

lists_are_there() {
  local package
  for package in "${packages[@]}"; do
    apt-cache --quiet=0 policy "$package" 2>/dev/null | grep -q 'Candidate: [^(]' || return 1
  done
}

print_plan() { # and note in `added` what is new
  local plan
  plan=$(apt_install -s) || { printf '%s\n' "$plan" >&2; die "apt cannot install ${packages[*]}; its reasons are above"; }
  added+=$(awk '$1 == "Inst" && $3 !~ /^\[/ { print " " $2 }' <<<"$plan")
  say "missing: ${reasons[*]}" "- apt will add:"
  awk '$1 == "Inst" && $3 !~ /^\[/ { sub(/^\(/, "", $3); printf "  %s %s\n", $2, $3 }' <<<"$plan"
  if grep -q '^Inst [^ ]* \[' <<<"$plan"; then
    say "and, because these need it, upgrade:"
    awk '$1 == "Inst" && $3 ~ /^\[/ { sub(/^\(/, "", $4); printf "  %s %s -> %s\n", $2, $3, $4 }' <<<"$plan"
  fi
}

may_install() { ((EUID == 0)) || [[ -n $ROOT ]]; }

policy_is_ours() { [[ -f $POLICY ]] && grep -qF "$MARK" "$POLICY"; }

lock_machine() { # other checkouts have a setup as well; apt inherits the lock, should this be killed
  exec 8<"${POLICY%/*}"
  flock "$@" 8
}

forbid_services() { # while we install, nothing is started: invoke-rc.d(8) and deb-systemd-invoke(1) ask this file
  local answer=0
  trap finish EXIT
  trap 'exit 130' INT TERM HUP
  policy_is_ours && return # of a run that was killed
  if [[ -e $POLICY || -L $POLICY ]]; then
    "$POLICY" openvswitch-switch start >/dev/null 2>&1 || answer=$?
    ((answer == 101)) && return
    trap - EXIT INT TERM HUP
    die "$POLICY is there and would let a newly installed service start. It is not ours to change." \
      "Install these yourself, then run this again: $*"
  fi
  printf '#!/bin/sh\n# %s, for as long as it installs packages\nexit 101\n' "$MARK" >"$POLICY.ebbtide"
  chmod 755 "$POLICY.ebbtide"
  ln "$POLICY.ebbtide" "$POLICY" # whole or not at all, and never over another
  rm -f "$POLICY.ebbtide"
}

note_begun() { printf '%s\n' $added >>"$BEGUN"; }

begun_in() { # those of the packages that we began to add which dpkg has in one of these states
  local package state
  [[ -e $BEGUN ]] || return 0
  sort -u "$BEGUN" | while read -r package; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || continue
    [[ " $* " != *" $state "* ]] || printf '%s\n' "$package"
  done
}

# However it ends: what was unpacked is configured while nothing may start, its services are disabled, and then the policy goes.
finish() {
  local left
  trap '' INT TERM HUP
  left=$(begun_in "${UNFINISHED[@]}")
  if [[ -n $left ]]; then
    dpkg --configure $left </dev/null || true
  fi
  disable_services $(begun_in installed "${UNFINISHED[@]}")
  left=$(begun_in half-installed "${UNFINISHED[@]}")
  if [[ -n $left ]]; then
    say "dpkg has not finished with" $left "- see its reasons, then run this again" >&2
  else
    rm -f "$BEGUN"
  fi
  if policy_is_ours; then
    rm -f "$POLICY"
  fi
  trap - EXIT INT TERM HUP
}

mend() { # what a run that was killed has left
  local left
  [[ -e $BEGUN ]] || policy_is_ours || return 0
  if ! may_install; then
    ! lock_machine -n || say "an installation of packages was not finished: run this as root" >&2
    exec 8<&-
    return 0
  fi
  lock_machine
  if [[ -e $BEGUN ]] || policy_is_ours; then
    say "an installation of packages was not finished: finishing it"
    left=$(begun_in "${UNFINISHED[@]}")
    [[ -z $left ]] || forbid_services $left
    finish
  fi
  exec 8<&-
}

disable_services() { # of those of these packages that SERVING names
  local package file unit
  for package in "$@"; do
    [[ $package =~ $SERVING ]] || continue
    while read -r file; do
      unit=${file##*/}
      case $file in
        */lib/systemd/system/*.service | */lib/systemd/system/*.socket)
          if type -P systemctl >/dev/null; then
            systemctl --quiet disable "$unit" >/dev/null 2>&1 || true # static ones cannot be, and need not be
          elif type -P deb-systemd-helper >/dev/null; then
            deb-systemd-helper disable "$unit" >/dev/null 2>&1 || true
          fi
          ;;
        /etc/init.d/*) update-rc.d "$unit" disable >/dev/null 2>&1 || true ;;
      esac
    done <<<"$(dpkg -L "$package")"
  done
}

install_packages() {
  [[ -f $ROOT/etc/debian_version ]] && type -P apt-get >/dev/null || die \
    "missing: ${reasons[*]}" "This is not Debian: install them by hand (on Debian: ${packages[*]}), then run this again."
  may_install || die \
    "missing: ${reasons[*]}" "Run this as root, or have root install: apt-get install --no-install-recommends ${packages[*]}"
  lock_machine
  find_missing # another setup may just have been at it
  ((${#packages[@]})) || { exec 8<&-; return; }
  if ! lists_are_there; then
    say "apt does not know ${packages[*]} yet: apt-get update"
    apt_get update
  fi
  added=
  print_plan
  forbid_services "${packages[@]}"
  note_begun
  if ! apt_install; then
    say "once more with fresh package lists"
    apt_get update
    print_plan
    note_begun
    apt_install
  fi
  finish
  exec 8<&-
  find_missing
  ((${#packages[@]} == 0)) || die "still missing after the installation: ${reasons[*]}"
}

# ---- a virtual environment ----------------------------------------------------------------------------------------------

is_ours() { # .venv works, is new enough, and was made here: its scripts name its place
  local shebang
  "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
  shebang=$(head -n 2 "$VENV/bin/pip" 2>/dev/null | grep -o '/[^"]*/bin/python[0-9.]*' | head -n 1)
  [[ -n $shebang && ${shebang%/*} -ef $VENV/bin ]]
}

make_venv() {
  local clear=()
  if [[ -e $VENV ]]; then
    is_ours && return
    clear=(--clear)
  fi
  find_python
  [[ -n $python ]] || die "no Python 3.11 or newer was found"
  say "$VENV, with $("$python" --version)"
  "$python" -m venv ${clear[@]+"${clear[@]}"} "$VENV"
}

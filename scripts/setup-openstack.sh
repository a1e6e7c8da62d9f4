#!/usr/bin/env bash
# Makes a virtual environment with a pinned OpenStack for tests, and installs the Debian packages that such a cloud runs on.
#
#   scripts/setup-openstack.sh odl     .venv-odl: Neutron 22 with networking-odl (openstack/odl.lock), and MariaDB
#   scripts/setup-openstack.sh cloud   .venv-openstack: Keystone, Placement, Glance, Neutron, Nova (openstack/cloud.lock), MariaDB and RabbitMQ
#
# Doing it again is quick and changes nothing; packages.sh says what becomes of what is there already, and of services: none is started. Tests
# start instances of their own. The locks are for Python 3.11, which is Debian 12's.
set -euo pipefail
cd "$(dirname "$0")/.."

needed=(mariadbd=mariadb-server mariadb-install-db=mariadb-server mariadb=mariadb-client)
own=() # distributions of this repository that belong into it
case "${1-}" in
  odl) VENV=.venv-odl lock=openstack/odl.lock ;;
  cloud)
    VENV=.venv-openstack lock=openstack/cloud.lock own=(openstack/neutron-ebbtide .)
    needed+=(rabbitmq-server=rabbitmq-server epmd=erlang-base busybox=busybox dnsmasq=dnsmasq-base iptables-save=iptables)
    ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
readonly VENV lock
source scripts/packages.sh

stamp_of() { # what it is made from, and where
  { pwd -P; cat "$lock" ${own[@]+"${own[@]/%//pyproject.toml}"}; } | sha256sum
}

is_ready() {
  [[ -f $VENV/.ready ]] && "$VENV/bin/python" -c '' 2>/dev/null && [[ $(<"$VENV/.ready") == "$(stamp_of)" ]]
}

install_locked() {
  local pip=("$VENV/bin/python" -m pip install --quiet --no-deps) each
  say "the packages of $lock, each by its hash: some minutes"
  # Without dependencies: the lock holds all that is used, and some of what these packages ask for besides is not.
  "${pip[@]}" --require-hashes -r "$lock"
  for each in ${own[@]+"${own[@]}"}; do
    "${pip[@]}" --no-build-isolation --editable "$each"
  done
}

exec 9<"$0"
flock 9 # two runs at once would write into one environment

mend
find_missing
((${#packages[@]} == 0)) || install_packages
if is_ready; then
  say "ready"
  exit 0
fi
make_venv
install_locked
stamp_of >"$VENV/.ready"
say "done: $VENV"

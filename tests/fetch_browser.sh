#!/bin/sh
# Chromium and its driver for the tests of the playground and of reports, where apt can install them; those tests skip
# without them. It never fails, and gives up after a while where there is no network.
set -u

# A name alone is not enough: Ubuntu's chromium-browser is a stand-in for a snap, which containers cannot run.
works() {
  for browser in chromium chromium-browser google-chrome; do
    "$browser" --version >/dev/null 2>&1 && chromedriver --version >/dev/null 2>&1 && return 0
  done
  return 1
}

apt() {
  DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
    -o DPkg::Lock::Timeout=60 "$@" >/dev/null 2>&1
}

works && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
  why="this system has no apt-get"
elif [ "$(id -u)" != 0 ]; then
  why="installing them needs root"
elif apt update; apt install -y --no-install-recommends chromium chromium-driver && works; then
  exit 0
else
  why="apt-get could not install packages of that name that work here"
fi
echo "The tests in a browser will skip: no Chromium with its driver, and $why. Debian: apt-get install chromium chromium-driver"
exit 0

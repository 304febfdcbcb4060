#!/bin/sh
# Chromium and its driver for the tests of the playground and of reports, where apt can install them; those tests skip
# without them.
set -u
if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 && exit 0
fi
echo "No Chromium with its driver: the tests in a browser will skip. Debian and Ubuntu: apt-get install chromium chromium-driver"
exit 0

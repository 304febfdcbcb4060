#!/bin/sh
# WordNet's dict files for the tests, into .venv/share/wordnet and without root: Debian's package wordnet-base, else
# nltk's download. Where neither can be reached it says so and succeeds; the tests that need WordNet are then skipped.
target=.venv/share/wordnet
[ -f $target/data.noun ] || [ -f /usr/share/wordnet/data.noun ] && exit 0
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
found=$work/usr/share/wordnet

debian() {
    (cd "$work" && apt-get -qq "$@" download wordnet-base && dpkg -x wordnet-base_*.deb .)
}
if command -v apt-get && command -v dpkg; then
    # A fresh image has no package lists; they can be fetched into a folder of our own.
    lists="-o Dir::State::lists=$work/lists"
    debian || { mkdir -p "$work/lists/partial" && apt-get -qq $lists update && debian $lists; }
fi >/dev/null 2>&1
[ -f "$found/data.noun" ] || timeout 60 .venv/bin/python - "$work" >/dev/null 2>&1 <<'PYTHON'
import shutil, sys, nltk
nltk.download("wordnet", download_dir=sys.argv[1])
shutil.unpack_archive(f"{sys.argv[1]}/corpora/wordnet.zip", f"{sys.argv[1]}/usr/share")
PYTHON
if [ -f "$found/data.noun" ]; then
    mkdir -p $target && cp "$found"/* $target
else
    echo "WordNet cannot be fetched (no Debian packages, no nltk data): its tests are skipped."
fi

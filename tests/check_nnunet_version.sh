#!/usr/bin/env bash
# The suite against the wheel, as a user installs it, on one version of nnU-Net; then uninstalls it and compares
# what is left with what was there before. Usage: tests/check_nnunet_version.sh 2.6.0 [TEST ...]
set -euo pipefail
version=$1
shift
project=$(cd "$(dirname "$0")/.." && pwd)
venv=$project/.venv-nnunet-$version

listing() { (cd "$venv" && find lib bin -path '*__pycache__*' -prune -o -print | LC_ALL=C sort); }

[ -d "$venv" ] || python3 -m venv "$venv"
# torch comes with nnU-Net in one call, so that pip chooses versions that fit together
"$venv/bin/pip" install --quiet --no-compile "nnunetv2==$version" -c <(grep -E '^(torch|numpy|pandas|scikit|scipy)' "$project/constraints.txt")
"$venv/bin/pip" install --quiet --no-compile pytest pytest-timeout pytest-xdist psutil
"$venv/bin/pip" uninstall --quiet --yes nnunetv2-selfreg 2>/dev/null || true
before=$(listing)
"$venv/bin/pip" install --quiet "$project"
cd "$venv" # away from the checkout, so that the installed wheel is what is imported
"$venv/bin/pytest" -c "$project/pyproject.toml" -p no:cacheprovider -n auto --dist loadfile -m "not slow" \
    "${@/#/$project/}"
"$venv/bin/pip" uninstall --quiet --yes nnunetv2-selfreg
if ! diff <(echo "$before") <(listing) || find lib -iname '*selfreg*' | grep .; then
    echo "uninstalling nnunetv2-selfreg left the files above" >&2
    exit 1
fi
echo "nnU-Net $version: the tests pass with the wheel, and uninstalling it leaves nothing"

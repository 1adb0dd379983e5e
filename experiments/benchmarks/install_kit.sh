#!/bin/sh
# Install the pieces of an offline kit that lie beside this one: sh install.sh TARGET
# Then put TARGET first on PYTHONPATH. Run it again when more pieces have come. PYTHON names the interpreter.
set -eu
[ $# -eq 1 ] || { echo "usage: sh install.sh TARGET" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
kit=$(dirname "$here")
mkdir -p "$1/.kit"
target=$(cd "$1" && pwd)
state=$target/.kit
set --

for part in "$kit"/*/*.part-*; do # parts stay here until all have come
    [ -e "$part" ] || continue
    name=$(basename "$part")
    [ -e "$state/${name%.part-*}.installed" ] || cp "$part" "$state/$name"
done

missing=
while read -r sum parts name; do # contents.txt: sha256, number of parts, name of the wheel
    [ ! -e "$state/$name.installed" ] || continue
    file=
    if [ "$parts" -eq 1 ]; then
        for whole in "$kit"/*/"$name"; do [ ! -e "$whole" ] || file=$whole; done
    elif [ "$(find "$state" -name "$name.part-*" | wc -l)" -eq "$parts" ]; then
        file=$state/$name
        cat "$state/$name".part-* >"$file"
    fi
    if [ -z "$file" ]; then missing="$missing $name"; continue; fi
    echo "$sum  $file" | sha256sum -c --quiet - >&2 || { echo "$name is damaged: copy the kit again" >&2; exit 1; }
    set -- "$@" "$file"
done <"$here/contents.txt"

if [ $# -gt 0 ]; then
    PIP_CONFIG_FILE=/dev/null "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check \
        --no-index --no-deps --no-compile --target "$target" "$@"
    for file in "$@"; do
        name=$(basename "$file")
        : >"$state/$name.installed"
        rm -f "$state/$name" "$state/$name".part-*
    done
fi
echo "$# wheels installed in $target"
[ -z "$missing" ] || echo "not here yet:$missing"

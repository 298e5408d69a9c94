#!/bin/sh
# Reads one upload back with only age, dd, grep and openssl: no dropoff-tus, no database, no key of the server.
#
#   sh emergency-export.sh STORE_DIR KEYS_DIR UPLOAD_ID IDENTITY_FILE OUTPUT
#
# STORE_DIR and KEYS_DIR are store.dir and store.keys_dir, or copies of them. IDENTITY_FILE holds the root identity.
# AGE names another age program; hybrid keys (AGE-SECRET-KEY-PQ-…) need age 1.3 or newer.
# It decrypts, and compares with the receipt where there is one. It does not verify the signed log: see recovery.md.
set -eu
umask 077

die() { echo "emergency-export: $1" >&2; exit 1; }

[ $# -eq 5 ] || die "usage: sh emergency-export.sh STORE_DIR KEYS_DIR UPLOAD_ID IDENTITY_FILE OUTPUT"
store=$1 keys=$2 id=$3 identity=$4 output=$5
age=${AGE:-age}
echo "$id" | grep -qx '[0-9a-f]\{32\}' || die "an upload id is 32 lower-case hex digits"
[ ! -e "$output" ] || die "$output exists already and was left as it is"
partial=$output.part
[ ! -e "$partial" ] || die "$partial exists already; move it away"
work=$(mktemp -d)
trap 'rm -rf "$work" "$partial"' EXIT
trap 'exit 1' HUP INT TERM

folder_of() { echo "$store/uploads/$(echo "$1" | grep -o '^..')/$1"; }
keys_of() { echo "$keys/$(echo "$1" | grep -o '^..')/$1"; }
# Only whole lines: a crash may have cut the last one of an unfinished upload.
lines_of() { grep -a '^{.*} [A-Za-z0-9+/]\{86\}$' "$(folder_of "$1")/log"; }

# The upload's own identity is in its envelope. By its member's name, since a client may have put anything into its
# metadata, which is in base64.
open_envelope() {
  "$age" -d -i "$identity" "$(keys_of "$1").age" > "$work/envelope" &&
    grep -o '"identity":"AGE-SECRET-KEY-[A-Z0-9-]*"' "$work/envelope" | grep -o 'AGE-[A-Z0-9-]*' > "$work/$1.txt" ||
    die "the identity does not open $(keys_of "$1").age"
}

# Each segment is an age file of `cl` bytes at offset `co` of `data`.
segments() {
  open_envelope "$1"
  lines_of "$1" | grep -o '"cl":[0-9]*,"co":[0-9]*' | grep -o '[0-9][0-9]*' > "$work/numbers" || return 0
  while read -r length && read -r offset; do
    dd if="$(folder_of "$1")/data" bs=1M iflag=skip_bytes,count_bytes,fullblock \
      skip="$offset" count="$length" status=none > "$work/segment" || die "cannot read the data of $1"
    "$age" -d -i "$work/$1.txt" "$work/segment" || die "a segment of $1 does not decrypt"
  done < "$work/numbers"
}

[ -e "$(folder_of "$id")/log" ] || die "there is no upload $id in $store"
final=$(lines_of "$id" | grep '"t":"final"') || final=
[ -n "$final" ] || echo "emergency-export: not finished; what was acknowledged follows" >&2
: > "$partial"
open_envelope "$id"
parts=$(echo "$final" | grep -o '\["[0-9a-f]\{32\}","[0-9a-f]\{64\}",[0-9]*\]' | grep -o '"[0-9a-f]\{32\}"' |
  grep -o '[0-9a-f]\{32\}') || parts=
for part in ${parts:-$id}; do
  segments "$part" >> "$partial"
done

if [ -n "$final" ]; then
  length=$(echo "$final" | grep -o '"len":[0-9]*' | grep -o '[0-9]*$')
  [ "$(wc -c < "$partial")" -eq "$length" ] || die "the result has not the $length bytes that the log says"
fi
# A line, 12 bytes of nonce, the receipt, a tag of 16 bytes. The text of ChaCha20-Poly1305 begins with block 1 of ChaCha20.
receipt=$(keys_of "$id").receipt
if [ -e "$receipt" ]; then
  open_envelope "$id"
  key=$(grep -o '"receipt":"[0-9a-f]\{64\}"' "$work/envelope" | grep -o '[0-9a-f]\{64\}') ||
    die "the envelope of $id names no receipt"
  nonce=$(tail -n +2 "$receipt" | head -c 12 | od -An -tx1 | tr -d ' ')
  digest=$(tail -n +2 "$receipt" | tail -c +13 | head -c -16 |
    openssl enc -d -chacha20 -K "$key" -iv "01000000$nonce" | grep -a -o '"sha256":"[0-9a-f]*"' |
    grep -o '[0-9a-f]\{64\}') || digest=
  if [ -n "$digest" ]; then
    [ "$(sha256sum < "$partial" | grep -o '^[0-9a-f]*')" = "$digest" ] || die "the result is not what the receipt says"
    echo "emergency-export: the SHA-256 is that of the receipt" >&2
  fi
fi
mv "$partial" "$output"

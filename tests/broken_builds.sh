#!/usr/bin/env bash
# Is the empirical audit worth anything? Three defects are put into the true source, one at a time: noise four times too
# small, no clip, the same noise for every release. Each build of semisam-sim must contradict its own claim (exit 2), and the
# build without a defect must not (exit 0).
#
#   tests/broken_builds.sh
#
# Takes four release builds: 23 minutes on 2 cores that others used too, longer if outside crates must be compiled. It is
# not part of CI.
# The source is copied to a temporary folder; yours is not touched. CARGO_TARGET_DIR names a build folder whose compiled
# crates are used again (the broken programs stay in it: never install from there); without it, one is made and removed.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0

# fail TEXT..: says why, and ends.
fail() {
  echo "broken_builds.sh: $*" >&2
  exit 1
}

# copy_source: the files as git knows them, changes that are not committed included, to $work/source.
copy_source() {
  local file
  (cd "$root" && git ls-files -z --cached --others --exclude-standard) | while IFS= read -r -d '' file; do
    if [ -f "$root/$file" ]; then
      mkdir -p "$(dirname "$work/source/$file")"
      cp "$root/$file" "$work/source/$file"
    fi
  done
}

# replace FILE OLD NEW: the one line of FILE that is OLD, but for the indent, becomes NEW. Anything but one is an error.
replace() {
  local file="$work/source/$1" found
  [ -f "$file" ] || fail "the defect no longer applies: there is no \`$1\`; mend this script"
  [ -f "$file.sound" ] || cp "$file" "$file.sound"
  found="$(awk -v old="$2" '{ line = $0; sub(/^ +/, "", line); if (line == old) n++ } END { print n + 0 }' "$file")"
  [ "$found" = 1 ] || fail "the defect no longer applies: \`$1\` has the line \`$2\` $found times, not once; mend this script"
  awk -v old="$2" -v new="$3" '{ line = $0; sub(/^ +/, "", line); print (line == old ? new : $0) }' "$file" >"$work/changed"
  cp "$work/changed" "$file"
}

# mend: takes the last defect out again. Only what it touched is written, so that cargo compiles that and no more.
mend() {
  local file
  find "$work/source" -name '*.sound' | while IFS= read -r file; do
    cp "$file" "${file%.sound}"
    rm "$file"
  done
}

# audit NAME EXPECTED: builds what is in $work/source, audits it, and fails unless it ends with EXPECTED.
audit() {
  local began=$SECONDS code=0
  (cd "$work/source" && cargo build --release --quiet --locked -p semisam-sim --bin semisam-sim) || fail "$1 does not build"
  printf '\n== %s (built in %s s)\n' "$1" "$((SECONDS - began))"
  "$CARGO_TARGET_DIR/release/semisam-sim" audit 2>/dev/null || code=$?
  [ "$code" = "$2" ] || fail "$1: the audit ended with $code instead of $2"
}

copy_source
audit "no defect" 0

replace node/src/privacy/release.rs \
  'let noise = noise::draw(coordinates(plan), semisam_shared::plan::SIGMA, purpose)?;' \
  'let noise = noise::draw(coordinates(plan), semisam_shared::plan::SIGMA / 4, purpose)?;'
audit "noise four times too small" 2

mend
replace node/src/privacy/clip.rs \
  'let mut scale = (largest / self.grid).min(self.radius / norm);' \
  'let mut scale = largest / self.grid;'
replace node/src/privacy/clip.rs 'if self.holds(&integers) {' 'if self.holds(&integers) || norm > 0.0 {'
audit "clip skipped" 2

mend
replace node/src/privacy/noise/stream.rs \
  'getrandom::fill(entropy.as_mut_slice()).map_err(|error| NoiseError::Entropy(error.to_string()))?;' \
  'entropy.fill(7);'
replace node/src/privacy/noise/stream.rs \
  '.expand(&[&purpose.to_bytes()], hkdf::HKDF_SHA256)' \
  '.expand(&[&purpose.site.0[..]], hkdf::HKDF_SHA256)'
audit "noise used again" 2

printf '\nall three defects were caught, and the sound build passed (%s s)\n' "$SECONDS"

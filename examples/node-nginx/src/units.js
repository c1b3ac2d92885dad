const UNITS = ['B', 'kB', 'MB', 'GB'];

/** A number of bytes as people write it: `inUnits(1500)` is "1.5 kB". */
export function inUnits(bytes) {
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${Number(value.toPrecision(3))} ${UNITS[unit]}`;
}

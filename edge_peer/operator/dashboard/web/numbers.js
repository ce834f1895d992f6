/** Numbers as people read them. */

/** Four digits, or a dash. */
export function accuracyText(value) {
  return value === null || value === undefined ? "–" : value.toFixed(4);
}

export function bytesText(count) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= size) {
      return `${Number((count / size).toPrecision(3))} ${unit}`;
    }
  }
  return `${Math.round(count)} B`;
}

export function secondsText(seconds) {
  if (seconds < 10) {
    return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  }
  if (seconds < 120) {
    return `${Math.round(seconds)} s`;
  }
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export function clockText(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

/** The share of sorted values below: linear between two of them. */
export function percentile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  const high = Math.ceil(place);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}

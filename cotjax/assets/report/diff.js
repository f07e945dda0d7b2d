"use strict";
// Which words two texts do not share.

const MOST_CELLS = 4e6; // of the table of two texts; larger ones are marked as a whole

const wordsOf = (text) => text.match(/\s+|[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]/gu) ?? [];

// Two lists of [words, differs], whose texts join to `one` and `other`.
function wordDiff(one, other) {
  const a = wordsOf(one);
  const b = wordsOf(other);
  let begin = 0;
  while (begin < a.length && begin < b.length && a[begin] === b[begin]) begin += 1;
  let end = 0;
  while (end < a.length - begin && end < b.length - begin && a.at(-1 - end) === b.at(-1 - end)) {
    end += 1;
  }
  const [keptA, keptB] = common(a.slice(begin, a.length - end), b.slice(begin, b.length - end));
  const whole = (words, kept) => {
    const marks = words.map((_, n) => n < begin || n >= words.length - end || kept[n - begin]);
    return joined(words, marks);
  };
  return [whole(a, keptA), whole(b, keptB)];
}

// For each word of both whether it is in their longest common subsequence.
function common(a, b) {
  const kept = [new Array(a.length).fill(false), new Array(b.length).fill(false)];
  const width = b.length + 1;
  if (!a.length || !b.length || (a.length + 1) * width > MOST_CELLS) return kept;
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] =
        a[i] === b[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      kept[0][i++] = true;
      kept[1][j++] = true;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}

function joined(words, kept) {
  const pieces = [];
  words.forEach((word, n) => {
    const last = pieces.at(-1);
    // A space between two words that differ belongs to their mark.
    const differs = !kept[n] || (/^\s+$/.test(word) && n > 0 && !kept[n - 1] && kept[n + 1] === false);
    if (last && last[1] === differs) last[0] += word;
    else pieces.push([word, differs]);
  });
  return pieces;
}

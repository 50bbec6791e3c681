// Text that arrives in pieces with byte offsets. Pieces may repeat, overlap or be cut differently; put together by
// offset they are byte for byte what is stored. Pure.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Bytes of UTF-8. */
export function byteLength(text) {
  let n = text.length;
  for (let i = 0; i < text.length; i += 1) {
    const c = text.charCodeAt(i);
    if (c < 0x80) continue;
    if (c < 0x800) n += 1;
    else if (c >= 0xd800 && c < 0xdc00) { n += 2; i += 1; } else n += 2;
  }
  return n;
}

export const NONE = { text: '', bytes: 0, gap: false };

/**
 * Adds a piece at `offset`. Returns the same object when the piece brings nothing new, and `gap: true` (text
 * unchanged) when bytes before it are missing.
 */
export function merge(known, offset, piece) {
  if (offset > known.bytes) return known.gap ? known : { ...known, gap: true };
  const length = byteLength(piece);
  if (offset + length <= known.bytes) return known;
  const fresh = offset === known.bytes ? piece : decoder.decode(encoder.encode(piece).subarray(known.bytes - offset));
  return { text: known.text + fresh, bytes: offset + length, gap: false };
}

/** A whole text as the start of a stream. */
export const whole = (text) => ({ text, bytes: byteLength(text), gap: false });

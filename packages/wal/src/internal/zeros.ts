/**
 * Finding bytes that are not zero.
 *
 * @internal
 */

/** The first offset in [from, to) whose byte is not zero, or -1. */
export const firstNonZero = (view: DataView, from: number, to: number): number => {
  let at = from
  for (; at + 8 <= to && (view.getInt32(at) | view.getInt32(at + 4)) === 0;) at += 8
  for (; at < to; at++) if (view.getUint8(at) !== 0) return at
  return -1
}

/** The offset behind the last byte in [from, to) that is not zero; `from` when there is none. */
export const endOfNonZero = (view: DataView, from: number, to: number): number => {
  let end = to
  for (; end - 8 >= from && (view.getInt32(end - 4) | view.getInt32(end - 8)) === 0;) end -= 8
  for (; end > from; end--) if (view.getUint8(end - 1) !== 0) return end
  return from
}

/**
 * CRC-32C of short runs, and of runs that are known only as the difference of two others.
 *
 * A call of the native CRC-32C costs some 200 ns before it looks at the first byte, which is more than a batch of one
 * small record takes in all. Table look-ups, sixteen for sixteen bytes, need 0.55 ns a byte and nothing to start with, so
 * they win below some 500 bytes.
 *
 * @internal
 */
import { crc32c } from "@tidemark/platform/Checksum"

/** The polynomial of CRC-32C, lowest power of x in the highest bit. */
const polynomial = 0x82f63b78

/** Below so many bytes the tables are faster than the native call (measured). */
const nativeFromBytes = 512

const tableEntry = (byte: number): number => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 0 ? value >>> 1 : (value >>> 1) ^ polynomial
  return value
}

/** What a byte contributes that one more byte of its word follows than in the table given. */
const makeTable = (previous: Int32Array | undefined): Int32Array =>
  Int32Array.from({ length: 256 }, (_, byte) => {
    const value = previous?.[byte]
    return value === undefined ? tableEntry(byte) : (value >>> 8) ^ tableEntry(value & 0xff)
  })

const t0 = makeTable(undefined)
const t1 = makeTable(t0)
const t2 = makeTable(t1)
const t3 = makeTable(t2)
const t4 = makeTable(t3)
const t5 = makeTable(t4)
const t6 = makeTable(t5)
const t7 = makeTable(t6)
const t8 = makeTable(t7)
const t9 = makeTable(t8)
const t10 = makeTable(t9)
const t11 = makeTable(t10)
const t12 = makeTable(t11)
const t13 = makeTable(t12)
const t14 = makeTable(t13)
const t15 = makeTable(t14)

// No index below is out of bounds; `?? 0` says so to the compiler and costs nothing that could be measured.

/** What the last 8 bytes of a step contribute, as two little-endian words. */
const lastWords = (low: number, high: number): number =>
  (t7[low & 255] ?? 0) ^ (t6[(low >>> 8) & 255] ?? 0) ^ (t5[(low >>> 16) & 255] ?? 0) ^ (t4[low >>> 24] ?? 0) ^
  (t3[high & 255] ?? 0) ^ (t2[(high >>> 8) & 255] ?? 0) ^ (t1[(high >>> 16) & 255] ?? 0) ^ (t0[high >>> 24] ?? 0)

/** What the 8 bytes in front of those contribute. */
const wordsBefore = (low: number, high: number): number =>
  (t15[low & 255] ?? 0) ^ (t14[(low >>> 8) & 255] ?? 0) ^ (t13[(low >>> 16) & 255] ?? 0) ^ (t12[low >>> 24] ?? 0) ^
  (t11[high & 255] ?? 0) ^ (t10[(high >>> 8) & 255] ?? 0) ^ (t9[(high >>> 16) & 255] ?? 0) ^ (t8[high >>> 24] ?? 0)

/** `previous` continued over `value` as a little-endian u64. */
export const crc32cOfU64 = (value: number, previous: number): number =>
  ~lastWords((value >>> 0) ^ ~previous, Math.floor(value / 2 ** 32)) >>> 0

/** `previous` continued over [from, to), a multiple of 8 bytes long. `view` shows the same bytes as `bytes`. */
export const crc32cOfRun = (bytes: Uint8Array, view: DataView, from: number, to: number, previous: number): number => {
  if (to - from >= nativeFromBytes) return crc32c(bytes.subarray(from, to), previous)
  let register = ~previous
  let at = from
  for (; at + 16 <= to; at += 16) {
    // The half that does not depend on the step before it first.
    const last = lastWords(view.getInt32(at + 8, true), view.getInt32(at + 12, true))
    register = last ^ wordsBefore(view.getInt32(at, true) ^ register, view.getInt32(at + 4, true))
  }
  if (at < to) register = lastWords(view.getInt32(at, true) ^ register, view.getInt32(at + 4, true))
  return ~register >>> 0
}

/** The product of two polynomials modulo the one of CRC-32C, all with the lowest power in the highest bit. */
const multiply = (left: number, right: number): number => {
  let product = 0
  let shifted = right
  for (let bit = 31; bit >= 0; bit--) {
    if (((left >>> bit) & 1) === 1) product ^= shifted
    shifted = (shifted & 1) === 0 ? shifted >>> 1 : (shifted >>> 1) ^ polynomial
  }
  return product
}

/** x^(8 * 2^k) for k = 0 ... 52: what 2^k bytes behind a run do to its checksum. */
const powers: ReadonlyArray<number> = (() => {
  // x^8, which is bit 31 - 8.
  const found = [1 << 23]
  for (let last = 1 << 23; found.length < 53;) {
    last = multiply(last, last)
    found.push(last)
  }
  return found
})()

/**
 * What `checksum` contributes to that of a run which goes on for `bytes` bytes: the CRC-32C of A followed by B is
 * `shiftCrc32c(crc(A), length of B) ^ crc(B)`.
 */
export const shiftCrc32c = (checksum: number, bytes: number): number => {
  let shifted = checksum
  let left = bytes
  for (const power of powers) {
    if (left === 0) break
    if (left % 2 === 1) shifted = multiply(power, shifted)
    left = Math.floor(left / 2)
  }
  return shifted >>> 0
}

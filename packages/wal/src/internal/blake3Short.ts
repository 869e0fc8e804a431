/**
 * BLAKE3 of a few bytes, in JavaScript.
 *
 * A call of the native function costs more than a microsecond before it looks at the first byte, and makes a buffer. The
 * id of a marker is computed for every commit, and for every record of a stream that is verified: BLAKE3 of 81 bytes,
 * which is two blocks, and which takes some 300 ns in here.
 *
 * Only one chunk, which is up to 1,024 bytes: behind that BLAKE3 becomes a tree. The tests hold it against the native
 * function for every length.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"

const blockBytes = 64
const chunkBytes = 1024
const chunkStart = 1
const chunkEnd = 2
const root = 8

/** Where the chain starts: the fractions of the square roots of the first eight primes. Used by every block as well. */
const start = Int32Array.of(
  0x6a09e667,
  0xbb67ae85,
  0x3c6ef372,
  0xa54ff53a,
  0x510e527f,
  0x9b05688c,
  0x1f83d9ab,
  0x5be0cd19
)

/** Of the hash that is being computed: used within one step. */
const chain = new Int32Array(8)
const block = new Uint8Array(blockBytes)
const blockView = new DataView(block.buffer)

const rotate = (word: number, bits: number): number => (word >>> bits) | (word << (32 - bits))

/**
 * Puts the first bytes of the hash of `bytes`, which are 1,024 at the most, into `target`, which has 32 at the most.
 *
 * @internal
 */
export const blake3Short = (bytes: Uint8Array, target: Uint8Array): void => {
  invariant(bytes.length <= chunkBytes && target.length <= 32, "a short hash is one of a chunk, 32 bytes at the most")
  chain.set(start)
  let offset = 0
  let flags = chunkStart
  for (; bytes.length - offset > blockBytes; offset += blockBytes) {
    block.set(bytes.subarray(offset, offset + blockBytes))
    compress(blockBytes, flags)
    flags = 0
  }
  const left = bytes.length - offset
  block.set(bytes.subarray(offset))
  block.fill(0, left)
  compress(left, flags | chunkEnd | root)
  for (let i = 0; i < target.length; i++) target[i] = (chain[i >> 2] ?? 0) >>> (8 * (i & 3))
}

/** Mixes the block into the chain: seven rounds over sixteen words, all of them variables, for that is what makes it quick. */
const compress = (length: number, flags: number): void => {
  let m0 = blockView.getInt32(0, true)
  let m1 = blockView.getInt32(4, true)
  let m2 = blockView.getInt32(8, true)
  let m3 = blockView.getInt32(12, true)
  let m4 = blockView.getInt32(16, true)
  let m5 = blockView.getInt32(20, true)
  let m6 = blockView.getInt32(24, true)
  let m7 = blockView.getInt32(28, true)
  let m8 = blockView.getInt32(32, true)
  let m9 = blockView.getInt32(36, true)
  let m10 = blockView.getInt32(40, true)
  let m11 = blockView.getInt32(44, true)
  let m12 = blockView.getInt32(48, true)
  let m13 = blockView.getInt32(52, true)
  let m14 = blockView.getInt32(56, true)
  let m15 = blockView.getInt32(60, true)
  let v0 = chain[0] ?? 0
  let v1 = chain[1] ?? 0
  let v2 = chain[2] ?? 0
  let v3 = chain[3] ?? 0
  let v4 = chain[4] ?? 0
  let v5 = chain[5] ?? 0
  let v6 = chain[6] ?? 0
  let v7 = chain[7] ?? 0
  let v8 = 0x6a09e667
  let v9 = 0xbb67ae85 | 0
  let v10 = 0x3c6ef372
  let v11 = 0xa54ff53a | 0
  // The number of the chunk, which is the first.
  let v12 = 0
  let v13 = 0
  let v14 = length
  let v15 = flags
  let kept = 0
  for (let round = 0; round < 7; round++) {
    // The four columns.
    v0 = (v0 + v4 + m0) | 0
    v12 = rotate(v12 ^ v0, 16)
    v8 = (v8 + v12) | 0
    v4 = rotate(v4 ^ v8, 12)
    v0 = (v0 + v4 + m1) | 0
    v12 = rotate(v12 ^ v0, 8)
    v8 = (v8 + v12) | 0
    v4 = rotate(v4 ^ v8, 7)
    v1 = (v1 + v5 + m2) | 0
    v13 = rotate(v13 ^ v1, 16)
    v9 = (v9 + v13) | 0
    v5 = rotate(v5 ^ v9, 12)
    v1 = (v1 + v5 + m3) | 0
    v13 = rotate(v13 ^ v1, 8)
    v9 = (v9 + v13) | 0
    v5 = rotate(v5 ^ v9, 7)
    v2 = (v2 + v6 + m4) | 0
    v14 = rotate(v14 ^ v2, 16)
    v10 = (v10 + v14) | 0
    v6 = rotate(v6 ^ v10, 12)
    v2 = (v2 + v6 + m5) | 0
    v14 = rotate(v14 ^ v2, 8)
    v10 = (v10 + v14) | 0
    v6 = rotate(v6 ^ v10, 7)
    v3 = (v3 + v7 + m6) | 0
    v15 = rotate(v15 ^ v3, 16)
    v11 = (v11 + v15) | 0
    v7 = rotate(v7 ^ v11, 12)
    v3 = (v3 + v7 + m7) | 0
    v15 = rotate(v15 ^ v3, 8)
    v11 = (v11 + v15) | 0
    v7 = rotate(v7 ^ v11, 7)
    // The four diagonals.
    v0 = (v0 + v5 + m8) | 0
    v15 = rotate(v15 ^ v0, 16)
    v10 = (v10 + v15) | 0
    v5 = rotate(v5 ^ v10, 12)
    v0 = (v0 + v5 + m9) | 0
    v15 = rotate(v15 ^ v0, 8)
    v10 = (v10 + v15) | 0
    v5 = rotate(v5 ^ v10, 7)
    v1 = (v1 + v6 + m10) | 0
    v12 = rotate(v12 ^ v1, 16)
    v11 = (v11 + v12) | 0
    v6 = rotate(v6 ^ v11, 12)
    v1 = (v1 + v6 + m11) | 0
    v12 = rotate(v12 ^ v1, 8)
    v11 = (v11 + v12) | 0
    v6 = rotate(v6 ^ v11, 7)
    v2 = (v2 + v7 + m12) | 0
    v13 = rotate(v13 ^ v2, 16)
    v8 = (v8 + v13) | 0
    v7 = rotate(v7 ^ v8, 12)
    v2 = (v2 + v7 + m13) | 0
    v13 = rotate(v13 ^ v2, 8)
    v8 = (v8 + v13) | 0
    v7 = rotate(v7 ^ v8, 7)
    v3 = (v3 + v4 + m14) | 0
    v14 = rotate(v14 ^ v3, 16)
    v9 = (v9 + v14) | 0
    v4 = rotate(v4 ^ v9, 12)
    v3 = (v3 + v4 + m15) | 0
    v14 = rotate(v14 ^ v3, 8)
    v9 = (v9 + v14) | 0
    v4 = rotate(v4 ^ v9, 7)
    // Each word takes the place that the next round wants it in.
    kept = m0
    m0 = m2
    m2 = m3
    m3 = m10
    m10 = m12
    m12 = m9
    m9 = m11
    m11 = m5
    m5 = kept
    kept = m1
    m1 = m6
    m6 = m4
    m4 = m7
    m7 = m13
    m13 = m14
    m14 = m15
    m15 = m8
    m8 = kept
  }
  chain[0] = v0 ^ v8
  chain[1] = v1 ^ v9
  chain[2] = v2 ^ v10
  chain[3] = v3 ^ v11
  chain[4] = v4 ^ v12
  chain[5] = v5 ^ v13
  chain[6] = v6 ^ v14
  chain[7] = v7 ^ v15
}

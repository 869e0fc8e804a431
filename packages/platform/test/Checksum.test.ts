import { assert, describe, it } from "@effect/vitest"
import { blake3, Checksum, crc32c, xxh3 } from "@tidemark/platform/Checksum"
import { Effect } from "effect"
import fc from "fast-check"

/** Bit by bit, as the polynomial is written down: reflected 0x1EDC6F41. */
const slowCrc32c = (bytes: Uint8Array) => {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ 0x82f63b78
  }
  return (crc ^ 0xffffffff) >>> 0
}

const text = (value: string) => new TextEncoder().encode(value)

describe("crc32c", () => {
  it("has its check value", () => {
    assert.strictEqual(crc32c(text("123456789")), 0xe3069283)
    assert.strictEqual(crc32c(new Uint8Array(0)), 0)
  })

  it("is the remainder by its polynomial", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      assert.strictEqual(crc32c(bytes), slowCrc32c(bytes))
    }))
  })

  it("continues: of parts one after another it is that of the whole", () => {
    fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 8 }), (parts) => {
      const continued = parts.reduce((crc, part) => crc32c(part, crc), 0)
      assert.strictEqual(continued, crc32c(new Uint8Array(Buffer.concat(parts))))
    }))
  })

  it("looks at a view's own bytes only, in shared memory too", () => {
    const shared = new Uint8Array(new SharedArrayBuffer(20)).fill(9)
    shared.set(text("123456789"), 5)
    assert.strictEqual(crc32c(shared.subarray(5, 14)), 0xe3069283)
  })
})

describe("xxh3", () => {
  it("has its check value", () => {
    assert.strictEqual(xxh3(new Uint8Array(0)), 0x2d06800538d394c2n)
  })

  it("agrees with other implementations in each of its length classes", () => {
    // Computed with the packages hash-wasm 4.13.0 and xxhash-addon 2.1.0 over bytes (7 x index) mod 256.
    const expected = new Map([
      [1, 0xc44bdff4074eecdbn],
      [4, 0xd3d60c1519014e89n],
      [9, 0x03688dcad730d826n],
      [17, 0xf34c3c9cf5a112d1n],
      [129, 0x28065c6ec25f5b25n],
      [241, 0x541b19226f0052e8n],
      [1024, 0xdc5acf0b043c445bn],
      [1025, 0xe1d9cd946277ae26n],
      [4096, 0x8fb047a89e810965n],
      [65536, 0x0563d19d53652969n]
    ])
    for (const [length, value] of expected) {
      assert.strictEqual(xxh3(Uint8Array.from({ length }, (_, index) => 7 * index)), value, `${length} bytes`)
    }
  })

  it("looks at a view's own bytes only, in shared memory too", () => {
    const plain = text("tidemark")
    const shared = new Uint8Array(new SharedArrayBuffer(20)).fill(9)
    shared.set(plain, 3)
    assert.strictEqual(xxh3(shared.subarray(3, 11)), xxh3(plain))
    assert.notStrictEqual(xxh3(shared.subarray(3, 12)), xxh3(plain))
  })
})

describe("Checksum", () => {
  it.effect("the service computes the same", () =>
    Effect.gen(function*() {
      const checksum = yield* Checksum
      assert.strictEqual(checksum.crc32c(text("6789"), checksum.crc32c(text("12345"))), 0xe3069283)
      assert.strictEqual(checksum.xxh3(new Uint8Array(0)), 0x2d06800538d394c2n)
    }).pipe(Effect.provide(Checksum.layer)))
})

describe("blake3", () => {
  it("has its check value", () => {
    assert.strictEqual(Buffer.from(blake3(new Uint8Array(0))).toString("hex").slice(0, 16), "af1349b9f5f9a1a6")
  })

  it("agrees with other implementations below, at and above a chunk", () => {
    // Computed with the packages hash-wasm 4.13.0, @noble/hashes and blake3-jit over bytes (index) mod 256.
    const expected = new Map([
      [80, "4a6847ef66bce6c14ca05ec8f8ad7383bf2931f4bcfd0373c18e059e93f9def6"],
      [1024, "882179b8dbccd285cda241d968cfcccb3156c5edac2fa3761bb6eda7ff8cb172"],
      [4192, "c35afb425720fd88ec1e750ee94c62d7a1b4d2ebedc7cf0382955849b6f4cb4d"],
      [65_636, "17c145152b82c9e22e3dc6ec6d0cfaffbcee7c0d89c3deeacfe2a3924ac0bef6"]
    ])
    for (const [length, digest] of expected) {
      assert.strictEqual(Buffer.from(blake3(Uint8Array.from({ length }, (_, index) => index))).toString("hex"), digest)
    }
  })

  it("looks at a view's own bytes only", () => {
    const bytes = new Uint8Array(20).fill(9)
    bytes.set(text("123456789"), 5)
    assert.deepStrictEqual(blake3(bytes.subarray(5, 14)), blake3(text("123456789")))
  })
})

import { assert, describe, it } from "@effect/vitest"
import * as SharedHeaderErrors from "@tidemark/coordinator/SharedHeaderErrors"
import * as Format from "@tidemark/coordinator/SharedHeaderFormat"
import { CommitSeq, PageSize, pageSizes, SchemaEpoch } from "@tidemark/core/Scalars"
import { xxh3 } from "@tidemark/platform/Checksum"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"

const pageSize = PageSize.make(4096)

/** Every field has a value of its own, so that none can stand in the place of another. */
const example: Format.SharedHeaderContents = {
  pageSize,
  slots: 128,
  nextTxnId: 0x0101n,
  snapshotSequence: 0x0202n,
  commitSeq: CommitSeq.make(0x0303n),
  schemaEpoch: SchemaEpoch.make(0x0404n),
  ecsEpoch: 0x0505n,
  gcHorizon: CommitSeq.make(0x0606n),
  writerTxnId: 0x0707n,
  writerPid: 0x08,
  writerGeneration: 0x09,
  writerBirth: 0x0a0an,
  writerLeaseExpiryUnixSeconds: 0x0b0bn,
  nextCommitSeq: CommitSeq.make(0x0304n),
  publisherPid: 0x0c,
  publisherGeneration: 0x0d,
  publisherIsInitializing: true,
  publisherBirth: 0x0e0en
}

/** The same, written out from section 7 of the format description; the checksum apart. */
const exampleWords: ReadonlyArray<string> = [
  "4653514c53484d00", // magic
  "0100000000100000", // version, page size
  "8000000000000000", // slots, zero
  "0101000000000000", // next txn id
  "0202000000000000", // snapshot sequence
  "0303000000000000", // commit sequence
  "0404000000000000", // schema epoch
  "0505000000000000", // ECS epoch
  "0606000000000000", // GC horizon
  "0707000000000000", // serialized writer
  "0800000009000000", // its pid and generation
  "0a0a000000000000", // its birth
  "0b0b000000000000", // its lease
  "d800000000000000", // lock table at 216
  "d820000000000000", // witness at 216 + 128 x 64
  "d860000000000000", // transaction slots at that + 128 x 128
  "d8a0000000000000", // committed readers at that + 128 x 128
  "1000000000000000", // 128 / 8 bytes of them
  "", // checksum
  "0403000000000000", // next commit sequence
  "0c0000000d000080", // publisher: pid, generation, initializing
  "0e0e000000000000", // its birth
  ..."00000".split("").map(() => "0000000000000000")
]
/** 60 bytes: magic, version, page size, slots, then the five places. */
const exampleChecksumInput = Buffer.from(
  [...exampleWords.slice(0, 2), "80000000", ...exampleWords.slice(13, 18)].join(""),
  "hex"
)

const exampleBytes = () => {
  const bytes = new Uint8Array(
    Buffer.from(exampleWords.map((word) => word === "" ? "00".repeat(8) : word).join(""), "hex")
  )
  new DataView(bytes.buffer).setBigUint64(144, xxh3(exampleChecksumInput), true)
  return bytes
}

const u32 = fc.integer({ min: 0, max: 0xffffffff })
const u64 = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.constantFrom(0n, 1n, 2n ** 63n, 2n ** 64n - 1n))
const commitSeq = u64.map((value) => CommitSeq.make(value))
const headers: fc.Arbitrary<Format.SharedHeaderContents> = fc.record({
  pageSize: fc.constantFrom(...pageSizes.map((size) => PageSize.make(size))),
  slots: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(0xffffffff, 65_536)),
  nextTxnId: u64,
  snapshotSequence: u64,
  commitSeq,
  schemaEpoch: u64.map((value) => SchemaEpoch.make(value)),
  ecsEpoch: u64,
  gcHorizon: commitSeq,
  writerTxnId: u64,
  writerPid: u32,
  writerGeneration: u32,
  writerBirth: u64,
  writerLeaseExpiryUnixSeconds: u64,
  nextCommitSeq: commitSeq,
  publisherPid: u32,
  publisherGeneration: fc.integer({ min: 0, max: 0x7fffffff }),
  publisherIsInitializing: fc.boolean(),
  publisherBirth: u64
})

const codeOf = (bytes: Uint8Array): string => {
  const decoded = Format.decode(bytes)
  return Result.isFailure(decoded) ? `${decoded.failure.code}@${decoded.failure.offset}` : "accepted"
}

/** The bytes with one thing changed, under a checksum that matches unless told otherwise. */
const changed = (change: (view: DataView) => void, options?: { readonly keepChecksum: boolean }): Uint8Array => {
  const bytes = exampleBytes()
  const view = new DataView(bytes.buffer)
  change(view)
  if (options?.keepChecksum !== true) view.setBigUint64(144, Format.checksumOf(bytes), true)
  return bytes
}

describe("SharedHeaderFormat", () => {
  it("SHM-01 stands byte for byte as the format says, 216 bytes", () => {
    assert.strictEqual(Buffer.from(Format.encode(example)).toString("hex"), Buffer.from(exampleBytes()).toString("hex"))
    assert.strictEqual(Format.encode(example).length, 216)
    assert.deepStrictEqual(Format.decode(exampleBytes()), Result.succeed(example))
  })

  it("SHM-01 every word lies at a multiple of 8, every half at a multiple of 4, and no two overlap", () => {
    const halves = new Set<string>(["version", "pageSize", "slots", "zero"])
    let end = 0
    for (const [name, offset] of Object.entries(Format.offsets)) {
      assert.strictEqual(offset, end, name)
      assert.strictEqual(offset % (halves.has(name) ? 4 : 8), 0, name)
      end = offset + (halves.has(name) ? 4 : name === "padding" ? 40 : 8)
    }
    assert.strictEqual(end, Format.sharedHeaderBytes)
  })

  it("SHM-01 regions follow each other from byte 216, and what is mapped holds them in multiples of 64 KiB", () => {
    for (const slots of [1, 2, 7, 8, 9, 128, 200, 205, 65_536]) {
      const regions = Format.regionsOf(slots)
      assert.strictEqual(regions.lockTable, 216)
      assert.strictEqual(regions.witness, 216 + slots * 64)
      assert.strictEqual(regions.transactionSlots, 216 + slots * 192)
      assert.strictEqual(regions.committedReaders, 216 + slots * 320)
      assert.strictEqual(regions.end, 216 + slots * 320 + Math.ceil(slots / 8))
      assert.strictEqual(regions.transactionSlots % 8, 0)
      const mapped = Format.mappedBytes(slots)
      assert.strictEqual(mapped % 65_536, 0)
      assert.isTrue(mapped >= regions.end && mapped - regions.end < 65_536)
    }
    assert.strictEqual(Format.mappedBytes(128), 65_536)
    // 204 slots end at 65,522; one more does not fit.
    assert.strictEqual(Format.mappedBytes(204), 65_536)
    assert.strictEqual(Format.mappedBytes(205), 131_072)
  })

  it("SHM-01 all eight page sizes; asked for 0 slots, or none, there are 128; the next commit is 1", () => {
    for (const size of pageSizes) {
      for (const slots of [0, undefined]) {
        const fresh = Format.freshHeader({ pageSize: PageSize.make(size), slots })
        assert.deepInclude(fresh, { pageSize: PageSize.make(size), slots: 128, nextTxnId: 1n })
        assert.strictEqual(fresh.nextCommitSeq, CommitSeq.make(1n))
        assert.deepStrictEqual(Format.decode(Format.encode(fresh)), Result.succeed(fresh))
      }
    }
    assert.throws(() => Format.freshHeader({ pageSize, slots: 65_537 }), /65,536 slots/)
    assert.throws(() => Format.freshHeader({ pageSize, slots: 1.5 }), /65,536 slots/)
  })

  it.effect("SHM-02 every field survives the way through bytes, as a codec too, among other bytes", () =>
    Effect.gen(function*() {
      fc.assert(fc.property(headers, (header) => {
        const bytes = Format.encode(header)
        assert.deepStrictEqual(Format.decode(bytes), Result.succeed(header))
        const among = new Uint8Array(bytes.length + 70).fill(0xa5)
        among.set(bytes, 3)
        assert.deepStrictEqual(Format.decode(among.subarray(3)), Result.succeed(header))
      }))
      assert.deepStrictEqual(yield* Schema.decodeEffect(Format.SharedHeaderFromBytes)(exampleBytes()), example)
      assert.deepStrictEqual(yield* Schema.encodeEffect(Format.SharedHeaderFromBytes)(example), exampleBytes())
      const error = yield* Effect.flip(Schema.decodeEffect(Format.SharedHeaderFromBytes)(new Uint8Array(215)))
      assert.include(error.message, "215 bytes")
    }))

  it("SHM-02 each refusal by its name and place, the first one in the order of the checks", () => {
    const badMagic = (view: DataView) => {
      view.setUint8(0, 0x58)
    }
    const badVersion = (view: DataView) => {
      view.setUint32(8, 2, true)
    }
    const badPageSize = (view: DataView) => {
      view.setUint32(12, 3000, true)
    }
    const badChecksum = (view: DataView) => {
      view.setBigUint64(144, view.getBigUint64(144, true) ^ 1n, true)
    }
    const keepChecksum = { keepChecksum: true }
    const noSlots = (view: DataView) => {
      view.setUint32(16, 0, true)
    }
    assert.strictEqual(codeOf(exampleBytes().subarray(0, 215)), "ShmTooSmall@0")
    assert.strictEqual(codeOf(new Uint8Array(0)), "ShmTooSmall@0")
    assert.strictEqual(codeOf(changed(badMagic)), "ShmBadMagic@0")
    assert.strictEqual(codeOf(changed(badVersion)), "ShmVersionMismatch@8")
    assert.strictEqual(codeOf(changed(badPageSize)), "ShmInvalidPageSize@12")
    assert.strictEqual(codeOf(changed(badChecksum, keepChecksum)), "ShmChecksumMismatch@144")
    assert.strictEqual(codeOf(changed(noSlots)), "ShmLayoutMismatch@16")
    // What is wrong earlier in the order is named first.
    const both = (first: (view: DataView) => void, second: (view: DataView) => void) =>
      codeOf(changed((view) => {
        first(view)
        second(view)
      }, keepChecksum))
    assert.strictEqual(both(badVersion, badMagic), "ShmBadMagic@0")
    assert.strictEqual(both(badPageSize, badVersion), "ShmVersionMismatch@8")
    assert.strictEqual(both(badChecksum, badPageSize), "ShmInvalidPageSize@12")
    assert.strictEqual(both(noSlots, badChecksum), "ShmChecksumMismatch@144")
    for (const size of [0, 1, 256, 513, 131_072, 0xffffffff]) {
      assert.strictEqual(
        codeOf(changed((view) => {
          view.setUint32(12, size, true)
        })),
        "ShmInvalidPageSize@12"
      )
    }
  })

  it("regions elsewhere than the slots put them are refused although their checksum matches", () => {
    for (const offset of [104, 112, 120, 128, 136]) {
      const moved = changed((view) => {
        view.setBigUint64(offset, view.getBigUint64(offset, true) + 8n, true)
      })
      assert.strictEqual(codeOf(moved), `ShmLayoutMismatch@${offset}`)
    }
  })

  it("RC-27 a header that is still being filled says so", () => {
    const filling = changed((view) => {
      view.setBigUint64(0, Format.initializingMagic, true)
    })
    assert.strictEqual(Buffer.from(filling.subarray(0, 8)).toString("latin1"), "FSQLINI\0")
    assert.isTrue(Format.isInitializing(filling))
    assert.isFalse(Format.isInitializing(exampleBytes()))
    assert.isFalse(Format.isInitializing(new Uint8Array(7)))
    assert.strictEqual(codeOf(filling), "ShmBadMagic@0")
    assert.deepStrictEqual(Format.publisherOf(filling), { pid: 0x0c, birth: 0x0e0en })
    assert.deepStrictEqual(Format.publisherOf(filling.subarray(0, 215)), { pid: 0, birth: 0n })
  })

  it("SHM-03 the checksum covers what never changes and nothing else", () => {
    const base = Format.checksumOf(Format.encode(example))
    assert.strictEqual(Format.checksumOf(Format.encode(example)), base)
    assert.strictEqual(base, xxh3(exampleChecksumInput))
    fc.assert(fc.property(headers, (header) => {
      const { pageSize, slots } = example
      assert.strictEqual(Format.checksumOf(Format.encode({ ...header, pageSize, slots })), base)
    }))
    assert.notStrictEqual(Format.checksumOf(Format.encode({ ...example, slots: 129 })), base)
    assert.notStrictEqual(Format.checksumOf(Format.encode({ ...example, pageSize: PageSize.make(8192) })), base)
  })

  it("SHM-03 every bit of a header: one that never changes is refused, one that does is read as it is", () => {
    const codes: ReadonlyArray<readonly [from: number, to: number, code: string | undefined]> = [
      [0, 8, "ShmBadMagic"],
      [8, 12, "ShmVersionMismatch"],
      [12, 16, "ShmInvalidPageSize"],
      [16, 20, "ShmChecksumMismatch"],
      [20, 24, "ShmLayoutMismatch"],
      [24, 104, undefined],
      [104, 152, "ShmChecksumMismatch"],
      [152, 176, undefined],
      [176, 216, "ShmLayoutMismatch"]
    ]
    for (const [from, to, code] of codes) {
      for (let bit = from * 8; bit < to * 8; bit++) {
        const bytes = exampleBytes()
        bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7))
        const decoded = Format.decode(bytes)
        if (code === undefined) {
          assert.isTrue(Result.isSuccess(decoded), `bit ${bit}`)
          if (Result.isSuccess(decoded)) {
            assert.notDeepEqual(decoded.success, example, `bit ${bit}`)
            assert.deepStrictEqual(Format.encode(decoded.success), bytes, `bit ${bit}`)
          }
        } else {
          assert.strictEqual(Result.isFailure(decoded) ? decoded.failure.code : "accepted", code, `bit ${bit}`)
        }
      }
    }
  })

  it("cut at any byte it is too small, and random bytes neither pass nor throw", () => {
    const bytes = exampleBytes()
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "ShmTooSmall@0")
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (random) => codeOf(random) !== "accepted"))
  })

  it("every refusal has a typed error of its name, which says where", () => {
    for (
      const [name, kind] of [
        ["ShmTooSmall", SharedHeaderErrors.ShmTooSmall],
        ["ShmBadMagic", SharedHeaderErrors.ShmBadMagic],
        ["ShmVersionMismatch", SharedHeaderErrors.ShmVersionMismatch],
        ["ShmInvalidPageSize", SharedHeaderErrors.ShmInvalidPageSize],
        ["ShmChecksumMismatch", SharedHeaderErrors.ShmChecksumMismatch],
        ["ShmLayoutMismatch", SharedHeaderErrors.ShmLayoutMismatch]
      ] as const
    ) {
      const issue = Object.assign(Format.shortageOf(128, 65_535) ?? assert.fail(), { code: name })
      const refusal = Format.toRefusal("a.db.fsqlite-shm", issue)
      assert.strictEqual<unknown>(refusal.constructor, kind)
      assert.strictEqual(refusal._tag, name)
      assert.strictEqual(refusal.path, "a.db.fsqlite-shm")
      assert.strictEqual(refusal.issue, issue)
      assert.isFalse(refusal.isRetryable)
      assert.strictEqual(refusal.sqliteCode, 14)
      assert.include(refusal.message, "a.db.fsqlite-shm")
      assert.include(refusal.message, "65535 bytes")
    }
    assert.isUndefined(Format.shortageOf(128, 65_536))
  })

  it("the owner words keep pid, generation and the initializing bit apart", () => {
    fc.assert(
      fc.property(u32, fc.integer({ min: 0, max: 0x7fffffff }), fc.boolean(), (pid, generation, initializing) => {
        const word = { pid, generation, isInitializing: initializing }
        assert.deepStrictEqual(Format.fromPublisherWord(Format.toPublisherWord(word)), word)
      })
    )
    assert.strictEqual(
      Format.toPublisherWord({ pid: 0xffffffff, generation: 0x7fffffff, isInitializing: false }),
      2n ** 63n - 1n
    )
    fc.assert(fc.property(u32, u32, (pid, generation) => {
      assert.deepStrictEqual(Format.fromWriterWord(Format.toWriterWord({ pid, generation })), { pid, generation })
    }))
  })
})

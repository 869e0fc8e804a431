import { assert, describe, it } from "@effect/vitest"
import * as Format from "@tidemark/coordinator/TransactionSlotFormat"
import { CommitSeq } from "@tidemark/core/Scalars"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"

const example: Format.TransactionSlot = {
  tag: "live",
  holder: 0x0101n,
  epoch: 0x02,
  pid: 0x03,
  birth: 0x0404n,
  leaseExpiryUnixSeconds: 0x0505n,
  beginSeq: CommitSeq.make(0x0606n),
  commitSeq: CommitSeq.make(0x0707n),
  snapshotHigh: CommitSeq.make(0x0808n),
  state: "committing",
  mode: "concurrent",
  witnessEpoch: 0x09,
  hasInRw: true,
  hasOutRw: false,
  abortMark: 0x0a,
  writeSetPages: 0x0b,
  claimingUnixSeconds: 0x0c0cn,
  cleanupTxnId: 0x0d0dn
}

/** Written out from section 7.1 of the format description. */
const exampleHex = [
  "0101000000000000", // txn id
  "0200000003000000", // epoch, pid
  "0404000000000000", // birth
  "0505000000000000", // lease expiry
  "0606000000000000", // begin sequence
  "0707000000000000", // commit sequence
  "0808000000000000", // snapshot high
  "0201000009000000", // state, mode, zero, witness epoch
  "01000a000b000000", // in-rw, out-rw, marked for abort, zero, write-set pages
  "0c0c000000000000", // claiming time
  "0d0d000000000000", // cleanup txn id
  ..."00000".split("").map(() => "0000000000000000")
].join("")

const bytesOf = () => new Uint8Array(Buffer.from(exampleHex, "hex"))
const codeOf = (bytes: Uint8Array) => {
  const decoded = Format.decode(bytes)
  return Result.isFailure(decoded) ? `${decoded.failure.code}@${decoded.failure.offset}` : "accepted"
}
const changed = (change: (view: DataView) => void) => {
  const bytes = bytesOf()
  change(new DataView(bytes.buffer))
  return bytes
}

const u8 = fc.integer({ min: 0, max: 0xff })
const u32 = fc.integer({ min: 0, max: 0xffffffff })
const u64 = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.constantFrom(0n, 1n, 2n ** 63n, 2n ** 64n - 1n))
const seq = u64.map((value) => CommitSeq.make(value))
const slots: fc.Arbitrary<Format.TransactionSlot> = fc.record({
  tag: fc.constantFrom("live", "claiming", "cleaning"),
  holder: fc.bigInt({ min: 1n, max: 2n ** 62n - 1n }),
  epoch: u32,
  pid: u32,
  birth: u64,
  leaseExpiryUnixSeconds: u64,
  beginSeq: seq,
  commitSeq: seq,
  snapshotHigh: seq,
  state: fc.constantFrom("free", "active", "committing", "committed", "aborted"),
  mode: fc.constantFrom("serialized", "concurrent"),
  witnessEpoch: u32,
  hasInRw: fc.boolean(),
  hasOutRw: fc.boolean(),
  abortMark: u8,
  writeSetPages: u32,
  claimingUnixSeconds: u64,
  cleanupTxnId: u64
})

describe("TransactionSlotFormat", () => {
  it("SHM-11 stands byte for byte as the format says, 128 bytes", () => {
    assert.strictEqual(Buffer.from(Format.encode(example)).toString("hex"), exampleHex)
    assert.deepStrictEqual(Result.getOrThrow(Format.decode(bytesOf())), example)
    assert.strictEqual(Format.transactionSlotBytes, 128)
  })

  it.effect("SHM-11 every field survives the way through bytes, as a codec too", () =>
    Effect.gen(function*() {
      fc.assert(fc.property(slots, (slot) => {
        assert.deepStrictEqual(Result.getOrThrow(Format.decode(Format.encode(slot))), slot)
      }))
      const encoded = yield* Schema.encodeEffect(Format.TransactionSlotFromBytes)(example)
      assert.deepStrictEqual(yield* Schema.decodeEffect(Format.TransactionSlotFromBytes)(encoded), example)
    }))

  it("SHM-11 each refusal by its name and place, in the order of the checks", () => {
    const all = (view: DataView) => {
      view.setBigUint64(0, 3n << 62n, true)
      view.setUint8(56, 5)
      view.setUint8(57, 2)
      view.setUint8(64, 2)
      view.setUint8(65, 2)
      view.setUint16(58, 1, true)
      view.setUint8(67, 1)
      view.setUint8(88, 1)
    }
    const repairs: ReadonlyArray<readonly [string, (view: DataView) => void]> = [
      ["UnknownTag@0", (view) => view.setBigUint64(0, 1n << 62n, true)],
      ["NobodyUnderTag@0", (view) => view.setBigUint64(0, 7n, true)],
      ["UnknownState@56", (view) => view.setUint8(56, 4)],
      ["UnknownMode@57", (view) => view.setUint8(57, 1)],
      ["BadFlag@64", (view) => view.setUint8(64, 1)],
      ["BadFlag@65", (view) => view.setUint8(65, 1)],
      ["NotZero@58", (view) => view.setUint16(58, 0, true)],
      ["NotZero@67", (view) => view.setUint8(67, 0)],
      ["NotZero@88", (view) => view.setUint8(88, 0)]
    ]
    const bytes = changed(all)
    const view = new DataView(bytes.buffer)
    for (const [code, repair] of repairs) {
      assert.strictEqual(codeOf(bytes), code)
      repair(view)
    }
    assert.strictEqual(codeOf(bytes), "accepted")
    assert.strictEqual(codeOf(bytes.subarray(1)), "TooShort@0")
    assert.strictEqual(codeOf(new Uint8Array(129)), "TooLong@0")
    for (let byte = 88; byte < 128; byte++) {
      assert.strictEqual(codeOf(changed((view) => view.setUint8(byte, 0xff))), `NotZero@${byte - byte % 8}`)
    }
  })

  it("SHM-11 random bytes neither pass as something else nor throw", () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 128, maxLength: 128 }), (random) => {
      const bytes = new Uint8Array(random)
      const decoded = Format.decode(bytes)
      if (Result.isSuccess(decoded) && decoded.success.tag !== "free") {
        assert.deepStrictEqual(Format.encode(decoded.success), bytes)
      }
    }))
  })

  it("SHM-13 a word under a tag names a process by pid and 30 bits of its birth", () => {
    const process = { pid: 4321, birth: (5n << 30n) + 77n }
    for (
      const [word, tag] of [[Format.claimingWord(process), "claiming"], [
        Format.cleaningWord(process),
        "cleaning"
      ]] as const
    ) {
      assert.strictEqual(Format.toTag(word), tag)
      assert.deepStrictEqual(Format.processOf(word, process.birth), process)
      for (const birth of [0n, 78n]) assert.deepStrictEqual(Format.processOf(word, birth), { pid: 4321, birth: 0n })
      assert.isFalse(Format.isPredecessor(word, process))
      assert.isTrue(Format.isPredecessor(word, { pid: 4321, birth: 78n }))
      assert.isFalse(Format.isPredecessor(word, { pid: 4322, birth: 78n }), "somebody else, who may live")
      assert.isFalse(Format.isPredecessor(word, { pid: 4321, birth: 0n }), "births are not known here")
    }
    assert.strictEqual(Format.toTag(0n), "free")
    assert.strictEqual(Format.toTag(3n << 62n), "unknown")
  })

  it("SHM-11 the transaction of a slot: its id, also under a tag; none while it has none", () => {
    const of = (slot: Partial<Format.TransactionSlot>) => Format.transactionOf({ ...example, ...slot })
    assert.strictEqual(of({}), 0x0101n)
    assert.strictEqual(of({ tag: "cleaning" }), 0x0d0dn)
    assert.isUndefined(of({ tag: "claiming", cleanupTxnId: 0n }))
    assert.isUndefined(of({ tag: "claiming", cleanupTxnId: 2n ** 62n }))
    assert.isUndefined(of({ tag: "free", holder: 0n }))
  })

  it("marks to abort are 1 ... 255, and differ for transactions that follow each other", () => {
    for (let id = 1n; id < 1000n; id++) {
      assert.isTrue(Format.abortMarkOf(id) >= 1 && Format.abortMarkOf(id) <= 255)
      assert.notStrictEqual(Format.abortMarkOf(id), Format.abortMarkOf(id + 1n))
    }
  })
})

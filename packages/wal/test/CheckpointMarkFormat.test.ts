import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { isAnyTemporaryName, nameOf } from "../src/AtomicFile.ts"
import {
  type CheckpointMark,
  checkpointMarkBytes,
  CheckpointMarkFromBytes,
  checkpointMarkPath,
  decode,
  encode,
  readCheckpointMark,
  writeCheckpointMark
} from "../src/CheckpointMarkFormat.ts"
import { seq, walEpoch } from "./support/certificates.ts"
import { flipped, path, unspaced } from "./support/walFiles.ts"

const mark: CheckpointMark = {
  kind: "native",
  through: seq(0x0102030405060708n),
  segmentEpoch: walEpoch(0x1112131415161718n),
  certificateEpoch: 0x2122232425262728n,
  databasePages: 0xf1f2f3f4
}
const before: CheckpointMark = { ...mark, kind: "parallel", through: seq(7), databasePages: 2 }

const codeOf = (bytes: Uint8Array) =>
  Result.match(decode(bytes), { onSuccess: () => "valid", onFailure: (issue) => issue.code })

/** Changes the bytes and makes the checksum fit again. */
const rewritten = (change: (view: DataView) => void): Uint8Array => {
  const bytes = encode(mark)
  const view = new DataView(bytes.buffer)
  change(view)
  view.setUint32(44, crc32c(bytes.subarray(0, 44)), true)
  return bytes
}

describe("CheckpointMarkFormat", () => {
  it("stands byte for byte as the format says", () => {
    const bytes = encode(mark)
    assert.strictEqual(
      Buffer.from(bytes.subarray(0, 44)).toString("hex"),
      unspaced("54444d4b434b5054 0100 0200 00000000 0807060504030201 1817161514131211 2827262524232221 f4f3f2f1")
    )
    assert.strictEqual(bytes.length, checkpointMarkBytes)
    assert.strictEqual(new DataView(bytes.buffer).getUint32(44, true), crc32c(bytes.subarray(0, 44)))
    assert.strictEqual(encode(before)[10], 1)
    assert.strictEqual(checkpointMarkPath("/x/app.db"), "/x/app.db.fsqlite/checkpoint")
  })

  it("every value round-trips", () => {
    const u64 = fc.bigInt(0n, 2n ** 64n - 1n)
    fc.assert(fc.property(
      fc.constantFrom("parallel" as const, "native" as const),
      u64,
      u64,
      u64,
      fc.nat(0xffffffff),
      (kind, through, segmentEpoch, certificateEpoch, databasePages) => {
        const value = {
          kind,
          through: seq(through),
          segmentEpoch: walEpoch(segmentEpoch),
          certificateEpoch,
          databasePages
        }
        assert.deepStrictEqual(decode(encode(value)), Result.succeed(value))
      }
    ))
  })

  it("cut at any byte, longer by one, or with any bit flipped it is refused", () => {
    const bytes = encode(mark)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "TooShort")
    }
    assert.strictEqual(codeOf(new Uint8Array(49)), "TooLong")
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const expected = bit < 64 ? "BadMagic" : bit < 80 ? "UnsupportedVersion" : "ChecksumMismatch"
      assert.strictEqual(codeOf(flipped(bytes, bit >> 3, 1 << (bit & 7))), expected, `bit ${bit}`)
    }
  })

  it("what the checksum covers is refused too: an unknown kind, a zero field that is not zero", () => {
    assert.strictEqual(codeOf(rewritten(() => {})), "valid")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint16(10, 0, true))), "UnknownKind")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint16(10, 3, true))), "UnknownKind")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint32(12, 1, true))), "NotZero")
  })

  it("random bytes are refused, never a defect", () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 40, maxLength: 56 }), (bytes) => {
      assert.notStrictEqual(codeOf(bytes), "valid")
    }))
  })

  it.effect("the codec is the plain functions", () =>
    Effect.gen(function*() {
      const bytes = encode(mark)
      assert.deepStrictEqual(yield* Schema.decodeEffect(CheckpointMarkFromBytes)(bytes), mark)
      assert.deepStrictEqual(yield* Schema.encodeEffect(CheckpointMarkFromBytes)(mark), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(CheckpointMarkFromBytes)(flipped(bytes, 20)))
      assert.include(refused.message, "CRC-32C at byte 44")
    }))
})

describe("The file of the checkpoint mark", () => {
  const write = (disk: MemoryDisk, value = mark) =>
    Effect.flatMap(Vfs, (vfs) => writeCheckpointMark(vfs, path, value)).pipe(
      Effect.provide(MemoryVfs.layerDisk(disk))
    )
  const read = (disk: MemoryDisk) =>
    Effect.flatMap(Vfs, (vfs) => readCheckpointMark(vfs, path)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

  /** A database with its mark, with a side directory only, or without one. */
  const diskWith = (found: "mark" | "directory" | "nothing") => {
    const disk = MemoryDisk.make({ async: false })
    disk.writeFile(path, new Uint8Array(512))
    if (found !== "nothing") disk.writeFile(`${path}.fsqlite/wal-base`, new Uint8Array(48))
    if (found === "mark") disk.writeFile(checkpointMarkPath(path), encode(before))
    return disk
  }

  it.effect("it is read as it was written; none is undefined; a damaged one is its issue", () =>
    Effect.gen(function*() {
      const disk = diskWith("nothing")
      assert.isUndefined(yield* read(disk))
      yield* write(disk)
      assert.deepStrictEqual(yield* read(disk), Result.succeed(mark))
      for (
        const [bytes, code] of [[flipped(encode(mark), 20), "ChecksumMismatch"], [
          new Uint8Array(60),
          "TooLong"
        ]] as const
      ) {
        disk.writeFile(checkpointMarkPath(path), bytes)
        const found = yield* read(disk)
        assert.strictEqual(found !== undefined && Result.isFailure(found) ? found.failure.code : "no issue", code)
      }
    }))

  for (const found of ["mark", "directory", "nothing"] as const) {
    it.effect(`a power loss while it is written over ${found} leaves the one before or the new one`, () =>
      Effect.gen(function*() {
        const disk = diskWith(found)
        const trace = disk.record<"written">()
        yield* write(disk)
        trace.mark("written")
        trace.stop()
        let states = 0
        const seen = new Set<string>()
        for (const state of trace.crashStates()) {
          states++
          const bytes = state.disk.readFile(checkpointMarkPath(path))
          const value = bytes === undefined ? undefined : Result.getOrThrow(decode(bytes))
          const isNew = value !== undefined && value.through === mark.through
          if (state.marks.includes("written")) assert.isTrue(isNew, state.label)
          seen.add(isNew ? "new" : "before")
          assert.deepStrictEqual(value, isNew ? mark : found === "mark" ? before : undefined, state.label)
          for (const file of state.disk.files) {
            const isOurs = file === path || ["wal-base", "checkpoint"].includes(nameOf(file))
            assert.isTrue(isOurs || isAnyTemporaryName(nameOf(file)), `${file} ${state.label}`)
          }
        }
        assert.deepStrictEqual(seen, new Set(["before", "new"]))
        assert.isAbove(states, 10)
        assert.deepStrictEqual(disk.unsynced, [])
      }))
  }

  it.effect("a directory beside the database that was made but not synced is made durable with the mark", () =>
    Effect.gen(function*() {
      const disk = diskWith("nothing")
      yield* Effect.flatMap(Vfs, (vfs) => vfs.makeDirectory(`${path}.fsqlite`)).pipe(
        Effect.provide(MemoryVfs.layerDisk(disk))
      )
      yield* write(disk)
      disk.crash("lost")
      assert.deepStrictEqual(yield* read(disk), Result.succeed(mark))
    }))

  for (const operation of ["open", "write", "syncFull", "rename"] as const) {
    it.effect(`when ${operation} fails the mark before stays, and nothing is left behind`, () =>
      Effect.gen(function*() {
        const disk = diskWith("mark")
        const files = disk.files
        const fault = disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
        assert.strictEqual((yield* Effect.flip(write(disk))).operation, operation)
        assert.strictEqual(fault.hits, 1)
        assert.deepStrictEqual(yield* read(disk), Result.succeed(before))
        assert.deepStrictEqual(disk.files, files)
      }))
  }
})

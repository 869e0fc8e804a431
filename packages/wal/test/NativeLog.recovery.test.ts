/** What the next start finds of a native log, through the layer: kept, refused, removed, or only to be read. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toObjectId, toPageNumber, WalEpoch } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import * as CheckpointMarkFormat from "../src/CheckpointMarkFormat.ts"
import {
  encodeHeader,
  encodeMarkerInto,
  markerBytes,
  markerSegmentHeaderBytes,
  markerSegmentPath,
  markersPerSegment,
  noObject,
  slotOffset
} from "../src/MarkerFormat.ts"
import { Ledger } from "./support/ledger.ts"
import {
  burst,
  capsulesOf,
  commit,
  commits,
  emptyDisk,
  markerFilesOf,
  openByHand,
  pageSize,
  put,
  slowDisk
} from "./support/nativeLog.ts"
import { markOn, nothingIsLost } from "./support/nativeRuns.ts"
import {
  checkVisible,
  contentsOf,
  cycling,
  edited,
  fileDifference,
  settle,
  versionBytes
} from "./support/parallelRuns.ts"
import { openByHand as openParallel } from "./support/parallelWal.ts"
import { memoryPath, openMemory, prepareDisk } from "./support/sqliteWal.ts"

const segment = markerSegmentPath(memoryPath, 0n)
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

/** A log of so many commits, none of it in the database file. */
const logOf = (count: number, disk = emptyDisk()) =>
  Effect.scoped(Effect.gen(function*() {
    const opened = yield* openByHand(disk)
    const ledger = new Ledger(pageSize, opened.log.published().commitSeq)
    yield* commits(ledger, opened, count)
    return { disk, ledger }
  })).pipe(Effect.orDie)

const bytesOf = (disk: MemoryDisk, path: string): Uint8Array => {
  const bytes = disk.readFile(path)
  if (bytes === undefined) throw new Error(`there is no ${path}`)
  return bytes
}

/** The bytes of a file with one of them changed. */
const flipped = (disk: MemoryDisk, path: string, at: number): Uint8Array => {
  const bytes = bytesOf(disk, path)
  bytes[at] = (bytes[at] ?? 0) ^ 1
  return bytes
}

/** What is refused leaves the disk as it is. */
const refusalOf = (disk: MemoryDisk, open: (disk: MemoryDisk) => ReturnType<typeof openByHand>) =>
  Effect.gen(function*() {
    const before = contentsOf(disk)
    const refused = yield* Effect.flip(Effect.scoped(open(disk)))
    assert.deepStrictEqual(contentsOf(disk), before, "nothing was changed")
    return refused
  })

describe("NativeLog, the next start", () => {
  it.effect("RC-14 a torn end is cut off, and the next commit takes its place", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3)
      const whole = bytesOf(disk, segment)
      for (const torn of [1, 40, 87]) {
        const bytes = new Uint8Array(whole.length + torn).fill(7)
        bytes.set(whole)
        const copy = edited(disk, { [segment]: bytes })
        const opened = yield* openByHand(copy)
        assert.deepStrictEqual([opened.native.startUp.case, opened.native.startUp.tornTailBytes], ["RC-14", torn])
        assert.strictEqual(bytesOf(copy.afterCrash("lost"), segment).length, whole.length)
        const next = new Ledger(pageSize, toCommitSeq(3n), ledger.version(toCommitSeq(3n)))
        yield* commits(next, opened, 1)
        assert.strictEqual(bytesOf(copy, segment).length, whole.length + markerBytes)
        yield* nothingIsLost(copy, next, `${torn} bytes`)
      }
    }))

  it.effect("RC-15 a capsule that is missing or is another one refuses the start", () =>
    Effect.gen(function*() {
      const { disk } = yield* logOf(3)
      for (const path of capsulesOf(disk)) {
        for (const bytes of [undefined, flipped(disk, path, 100), bytesOf(disk, path).subarray(1)]) {
          assert.strictEqual((yield* refusalOf(edited(disk, { [path]: bytes }), openByHand))._tag, "CapsuleLost")
        }
      }
    }))

  it.effect("RC-16 capsules without a marker are removed, but those that somebody speaks for", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* commits(new Ledger(pageSize), opened, 1)
        for (const seq of [5n, 6n, 7n]) yield* put(opened, seq, 2)
      }))
      assert.strictEqual(capsulesOf(disk).length, 4)
      const spared = disk.afterCrash("kept")
      const opened = yield* openByHand(spared, { mayRemoveOrphan: ({ token }) => token?.id !== 6n })
      assert.strictEqual(opened.native.startUp.case, "RC-16")
      assert.strictEqual(opened.native.lastTxnId, 7n)
      assert.strictEqual(capsulesOf(spared).length, 2)
      yield* opened.close
      yield* Effect.scoped(openByHand(spared))
      assert.strictEqual(capsulesOf(spared).length, 1)
      yield* Effect.scoped(openByHand(spared))
      assert.strictEqual(capsulesOf(spared).length, 1, "the one with a marker stays")
    }))

  it.effect("RC-21 capsules at or below the mark are removed, whole or not; the mark is durable before that", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(2)
      const left = new Map(capsulesOf(disk).map((path) => [path, bytesOf(disk, path)]))
      yield* Effect.scoped(Effect.flatMap(openByHand(disk), ({ native }) => native.checkpoint("passive")))
      const [first, second] = left.keys()
      if (first === undefined || second === undefined) throw new Error("there are two capsules")
      const copy = edited(disk, { [first]: left.get(first), [second]: new Uint8Array(3) })
      const trace = copy.record()
      const opened = yield* openByHand(copy)
      trace.stop()
      assert.strictEqual(opened.native.startUp.case, "RC-21")
      assert.deepStrictEqual(capsulesOf(copy), [])
      const removed = trace.steps.findIndex((step) => step.kind === "remove" && step.path === first)
      const synced = trace.steps.findIndex((step) =>
        step.kind === "syncDirectory" && step.path === `${memoryPath}.fsqlite`
      )
      assert.isTrue(synced >= 0 && synced < removed)
      assert.strictEqual(checkVisible(opened, ledger, "removed").visible, toCommitSeq(2n))
    }))

  it.effect("RC-06 the pages of live capsules are read again, and the header says so before a commit", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(4)
      // As a failed sync of the header can leave it.
      const database = bytesOf(disk, memoryPath)
      database.fill(2, 18, 20)
      const copy = edited(disk, { [memoryPath]: database })
      const opened = yield* openByHand(copy)
      assert.strictEqual(opened.native.startUp.case, "RC-06")
      assert.deepStrictEqual(versionBytes(copy.afterCrash("lost")), [3, 3])
      assert.deepStrictEqual(opened.native.inLog(), { records: 12, capsules: 4 })
      assert.deepStrictEqual(checkVisible(opened, ledger, "four"), { visible: toCommitSeq(4n), tip: toCommitSeq(4n) })
    }))
})

describe("NativeLog with damaged markers", () => {
  const damaged = Effect.gen(function*() {
    const { disk, ledger } = yield* logOf(5)
    return { ledger, disk: edited(disk, { [segment]: flipped(disk, segment, slotOffset(toCommitSeq(4n)) + 20) }) }
  })

  it.effect("RC-26 what stands before the damage can be read, every commit is refused, nothing on the disk changes", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* damaged
      const before = contentsOf(disk)
      const trace = disk.record()
      const opened = yield* openByHand(disk, { checkpointOnClose: true, autoCheckpointFrames: 1 })
      assert.strictEqual(opened.native.startUp.case, "RC-26")
      assert.isTrue(opened.native.startUp.isReadOnly)
      assert.deepStrictEqual(checkVisible(opened, ledger, "read only"), {
        visible: toCommitSeq(3n),
        tip: toCommitSeq(3n)
      })
      assert.deepStrictEqual(opened.native.inLog(), { records: 9 + 1, capsules: 3 })
      const ended = opened.log.ended()
      assert.strictEqual(ended?._tag, "WalPoisoned")
      if (ended?._tag === "WalPoisoned") {
        const cause = Cause.squash(ended.cause)
        assert.strictEqual(cause, opened.native.startUp.damage)
        assert.match(ended.message, /damaged/)
      }
      let refused: string | undefined
      opened.log.admit({
        length: 88,
        enter: () => assert.fail("a commit is let in"),
        refuse: ({ _tag }) => {
          refused = _tag
        }
      })
      assert.strictEqual(refused, "WalPoisoned")
      const noRoom = yield* Effect.flip(put(opened, 9n, 2))
      assert.strictEqual(noRoom.code, "EROFS")
      assert.strictEqual((yield* Effect.flip(opened.capsules.sync([noObject]))).code, "EROFS")
      assert.strictEqual((yield* Effect.flip(opened.capsules.remove(noObject))).code, "EROFS")
      for (const mode of ["passive", "truncate"] as const) {
        assert.strictEqual((yield* Effect.flip(opened.native.checkpoint(mode)))._tag, "WalPoisoned")
      }
      const third = yield* opened.native.markers.read(toCommitSeq(3n))
      assert.isDefined(third)
      assert.isDefined(yield* opened.capsules.read(third.capsule))
      assert.isUndefined(yield* opened.native.markers.read(toCommitSeq(5n)))
      assert.strictEqual((yield* Effect.flip(Effect.scoped(openByHand(disk))))._tag, "LogLocked")
      yield* opened.close
      assert.deepStrictEqual(trace.steps, [], "not even a sync")
      trace.stop()
      assert.deepStrictEqual(contentsOf(disk), before)
    }).pipe(quiet))

  it.effect("RC-26 says that it is open for reading only when it is opened, and nothing more when it is closed", () =>
    Effect.gen(function*() {
      const { disk } = yield* damaged
      const said: Array<readonly [level: string, message: string]> = []
      const listener = Logger.make(({ logLevel, message }) => {
        said.push([logLevel, String(message)])
      })
      yield* Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* opened.close
      }).pipe(Effect.scoped, Effect.provide(Logger.layer([listener])))
      assert.deepStrictEqual(said.map(([level]) => level), ["Warn"])
      assert.match(said[0]?.[1] ?? "", /open for reading only: .* is damaged/)
    }))

  it.effect("RC-26 with the loss accepted it goes on above everything that had a sequence", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* damaged
      const opened = yield* openByHand(disk, { acceptLoss: true })
      assert.isFalse(opened.native.startUp.isReadOnly)
      assert.deepStrictEqual(checkVisible(opened, ledger, "accepted"), {
        visible: toCommitSeq(3n),
        tip: toCommitSeq(1_000_000n)
      })
      assert.strictEqual(capsulesOf(disk).length, 3, "the lost ones are gone")
      const next = new Ledger(pageSize, toCommitSeq(1_000_000n), ledger.version(toCommitSeq(3n)))
      yield* commits(next, opened, 2)
      assert.strictEqual(opened.log.published().commitSeq, 1_000_002n)
      yield* nothingIsLost(disk, next, "goes on")
      yield* opened.native.checkpoint("full")
      assert.isUndefined(fileDifference(disk, next, 1_000_002n))
      yield* opened.close
      const again = yield* openByHand(disk)
      assert.isUndefined(again.native.startUp.damage)
      assert.strictEqual(again.log.published().commitSeq, 1_000_002n)
    }).pipe(quiet))

  it.effect("RC-26 without a live commit the database file is what can be read", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(2)
      yield* Effect.scoped(Effect.flatMap(openByHand(disk), (opened) =>
        Effect.andThen(
          opened.native.checkpoint("passive"),
          commits(new Ledger(pageSize, toCommitSeq(2n), ledger.version(toCommitSeq(2n))), opened, 2)
        )))
      const copy = edited(disk, { [segment]: flipped(disk, segment, slotOffset(toCommitSeq(3n))) })
      const opened = yield* openByHand(copy)
      assert.isTrue(opened.native.startUp.isReadOnly)
      assert.strictEqual(checkVisible(opened, ledger, "the file").visible, toCommitSeq(2n))
    }).pipe(quiet))
})

describe("NativeLog and logs of the other kinds", () => {
  it.effect("RC-23 a native log with commits refuses the others, and theirs refuse it; after a checkpoint any may start", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make({ async: false }))
      const openers = {
        native: (disk: MemoryDisk) => openByHand(disk),
        parallel: (disk: MemoryDisk) => openParallel(disk),
        sqlite: (disk: MemoryDisk) => openMemory(disk, { create: { pageSize }, autoCheckpointFrames: 0 })
      } as const
      const refusers = {
        native: (disk: MemoryDisk) => Effect.asVoid(Effect.scoped(openers.native(disk))),
        parallel: (disk: MemoryDisk) => Effect.asVoid(Effect.scoped(openers.parallel(disk))),
        sqlite: (disk: MemoryDisk) => Effect.asVoid(Effect.scoped(openers.sqlite(disk)))
      } as const
      const kinds = ["native", "sqlite", "parallel", "sqlite", "native", "parallel", "native"] as const
      let ledger = new Ledger(pageSize)
      for (const kind of kinds) {
        // Commits, and is gone without a checkpoint.
        yield* Effect.scoped(Effect.gen(function*() {
          if (kind === "native") {
            const opened = yield* openers.native(disk)
            ledger = new Ledger(pageSize, opened.log.published().commitSeq, ledger.version(ledger.lastSeq))
            return yield* commit(ledger, opened, { pages: [2], databasePages: 3 })
          }
          const opened = yield* openers[kind](disk)
          ledger = new Ledger(pageSize, opened.log.published().commitSeq, ledger.version(ledger.lastSeq))
          const write = ledger.commit(opened, { pages: [2], databasePages: 3 })
          return yield* "laneCount" in opened.wal ? cycling({ ...opened, wal: opened.wal }, write) : write
        }))
        const before = contentsOf(disk)
        for (const other of ["native", "parallel", "sqlite"] as const) {
          if (other === kind) continue
          const refused = yield* Effect.flip(refusers[other](disk))
          assert.strictEqual(refused._tag, "WrongLogKind", `${other} over ${kind}`)
          if (refused._tag === "WrongLogKind") assert.strictEqual(refused.found, kind)
        }
        assert.deepStrictEqual(contentsOf(disk), before)
        yield* Effect.scoped(Effect.gen(function*() {
          if (kind === "native") {
            const opened = yield* openers.native(disk)
            yield* opened.native.checkpoint("truncate")
          } else {
            const opened = yield* openers[kind](disk)
            yield* opened.wal.checkpoint("truncate")
          }
        }))
        assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [2, 2])
        assert.isUndefined(fileDifference(disk, ledger, ledger.lastSeq), kind)
      }
    }).pipe(quiet))

  it.effect("2.2 a native mark keeps the epochs of the parallel log that was there before", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const ledger = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openParallel(disk)
        for (let n = 0; n < 3; n++) yield* cycling(opened, ledger.commit(opened, { pages: [2], databasePages: 3 }))
        yield* opened.wal.checkpoint("truncate")
      }))
      const read = () => CheckpointMarkFormat.decode(bytesOf(disk, CheckpointMarkFormat.checkpointMarkPath(memoryPath)))
      const before = read()
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        ledger.lastSeq = opened.log.published().commitSeq
        assert.strictEqual(ledger.lastSeq, 1_000_000n, "a segment of its own, above what the other log has used")
        ledger.versions.set(ledger.lastSeq, ledger.version(toCommitSeq(3n)))
        yield* commits(ledger, opened, 1)
        yield* opened.native.checkpoint("full")
      }))
      const after = read()
      assert.isTrue(before._tag === "Success" && after._tag === "Success")
      if (before._tag === "Success" && after._tag === "Success") {
        assert.isTrue(before.success.segmentEpoch > 0n)
        assert.deepStrictEqual(after.success, {
          ...before.success,
          kind: "native",
          through: toCommitSeq(1_000_001n),
          databasePages: 6
        })
      }
    }))
})

describe("NativeLog at the end of a marker segment", () => {
  const anyCapsule = toObjectId(new Uint8Array(16).fill(1))

  /** A database whose next commit has the number 999,998: as a checkpoint leaves it, with all of its history. */
  const nearTheEnd = (emptyDisk = MemoryDisk.make({ async: false })) => {
    const disk = prepareDisk(emptyDisk)
    const last = BigInt(markersPerSegment) - 3n
    return Effect.gen(function*() {
      yield* Effect.scoped(openByHand(disk))
      const bytes = new Uint8Array(slotOffset(toCommitSeq(last + 1n)))
      bytes.set(encodeHeader({ segmentId: 0n, start: toCommitSeq(0n) }))
      // Older ones are not looked at: their commits are in the database file.
      const view = new DataView(bytes.buffer)
      let previous = noObject
      for (const seq of [last - 1n, last]) {
        previous = encodeMarkerInto(bytes, view, slotOffset(toCommitSeq(seq)), {
          seq: toCommitSeq(seq),
          timeUnixNanos: seq,
          capsule: anyCapsule,
          proof: noObject,
          previous
        })
      }
      disk.writeFile(segment, bytes)
      disk.writeFile(
        CheckpointMarkFormat.checkpointMarkPath(memoryPath),
        CheckpointMarkFormat.encode({
          kind: "native",
          through: toCommitSeq(last),
          segmentEpoch: WalEpoch.make(0n),
          certificateEpoch: 0n,
          databasePages: 1
        })
      )
      return { disk, last: toCommitSeq(last) }
    })
  }

  it.effect("CO-02 GC-02 a batch goes over it, sequences stay dense, and the next start finds both files", () =>
    Effect.gen(function*() {
      const { disk, last } = yield* nearTheEnd()
      const ledger = new Ledger(pageSize, last)
      const opened = yield* openByHand(disk)
      assert.strictEqual(opened.log.published().commitSeq, last)
      yield* burst(ledger, opened, 6)
      yield* commits(ledger, opened, 2)
      assert.strictEqual(opened.log.published().commitSeq, last + 8n)
      assert.deepStrictEqual(markerFilesOf(disk), [segment, markerSegmentPath(memoryPath, 1n)])
      assert.strictEqual(bytesOf(disk, segment).length, slotOffset(toCommitSeq(999_999n)) + markerBytes)
      assert.strictEqual(
        bytesOf(disk, markerSegmentPath(memoryPath, 1n)).length,
        markerSegmentHeaderBytes + 6 * markerBytes
      )
      const history = yield* Stream.runCollect(
        opened.native.markers.range(toCommitSeq(last + 1n), toCommitSeq(last + 8n))
      )
      assert.deepStrictEqual(history.map(({ seq }) => seq - last), [1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n])
      yield* opened.close
      const again = yield* openByHand(disk.afterCrash("lost"))
      assert.deepStrictEqual(checkVisible(again, ledger, "reopened"), {
        visible: ledger.lastSeq,
        tip: ledger.lastSeq
      })
      yield* again.native.checkpoint("full")
    }))

  it.effect("2.2 RC-21 a checkpoint while the next segment is being begun marks what is durable and removes no more", () =>
    Effect.gen(function*() {
      const { disk, last } = yield* nearTheEnd(MemoryDisk.make())
      const ledger = new Ledger(pageSize, last)
      const opened = yield* openByHand(disk)
      yield* commits(ledger, opened, 1)
      const beginning = disk.hold({ operation: "rename", path: /\.tmp-segment/ })
      yield* Effect.addFinalizer(() => beginning.release)
      // The first of them has the last slot, the others none yet.
      const running = yield* Effect.forkChild(burst(ledger, opened, 4))
      yield* beginning.reached
      yield* opened.native.checkpoint("passive")
      assert.strictEqual(markOn(disk).through, last + 1n)
      assert.strictEqual(capsulesOf(disk).length, 4)
      const interrupted = yield* openByHand(disk.afterCrash("lost"))
      assert.isTrue(interrupted.log.published().commitSeq >= last + 1n)
      assert.isUndefined(ledger.differenceOf(interrupted.log.openReader()))
      yield* interrupted.close

      yield* beginning.release
      yield* Fiber.join(running)
      yield* opened.native.checkpoint("passive")
      assert.strictEqual(markOn(disk).through, last + 5n)
      assert.deepStrictEqual([capsulesOf(disk), markerFilesOf(disk).length], [[], 2])
      // The removals of capsules are not durable yet: markers of both segments say what they were.
      const again = yield* openByHand(disk.afterCrash("lost"))
      assert.deepStrictEqual([again.native.startUp.cases, again.log.published().commitSeq], [
        ["RC-21", "RC-01"],
        last + 5n
      ])
      yield* ledger.checkTip(again, "both segments below the mark")
    }))

  it.effect("GC-07 a segment that cannot be begun poisons, and what fitted before is decided by the next start", () =>
    Effect.gen(function*() {
      for (const operation of ["write", "syncFull", "rename", "syncDirectory"] as const) {
        const { disk, last } = yield* nearTheEnd()
        const ledger = new Ledger(pageSize, last)
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openByHand(disk)
          yield* commits(ledger, opened, 1)
          disk.inject({
            operation,
            path: operation === "syncDirectory" ? `${memoryPath}.fsqlite/markers` : /\.tmp-segment/,
            fault: { kind: "error", code: "ENOSPC" }
          })
          assert.strictEqual((yield* Effect.flip(burst(ledger, opened, 3)))._tag, "WalPoisoned")
        }))
        const again = yield* openByHand(disk.afterCrash("lost"))
        const found = checkVisible(again, ledger, operation)
        assert.isTrue(found.visible >= last + 1n, operation)
        const next = new Ledger(pageSize, found.tip, ledger.version(found.visible))
        yield* commits(next, again, 3)
        assert.strictEqual(again.log.published().commitSeq, found.tip + 3n)
      }
    }).pipe(quiet))
})

describe("NativeLog, killed", () => {
  it.effect("RC-16 a process that is killed while capsules wait for their sync leaves nothing that counts", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const ledger = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* commits(ledger, opened, 1)
        const held = disk.hold({ operation: "syncData", path: /capsules/ })
        const running = yield* Effect.forkChild(Effect.exit(burst(ledger, opened, 3)))
        yield* held.reached
        disk.kill()
        yield* settle
        assert.isTrue(Exit.isFailure(yield* Fiber.join(running)))
      }))
      const again = yield* openByHand(disk)
      assert.deepStrictEqual(again.native.startUp.cases.filter((row) => row === "RC-15" || row === "RC-16"), ["RC-16"])
      assert.strictEqual(checkVisible(again, ledger, "killed").visible, toCommitSeq(1n))
      assert.strictEqual(capsulesOf(disk).length, 1)
      assert.strictEqual(again.log.openReader().versionOf(toPageNumber(1)), toCommitSeq(1n))
    }).pipe(quiet))
})

/** The marker stream as a log of its own: group commit, locking, poison, closing, recovery. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import type { DiskMatch, Fault } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Cause, ConfigProvider, Context, Effect, Exit, Fiber, Layer, Metric, Scope, Stream } from "effect"
import { openMarkerLog } from "../src/internal/markerLogOpen.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import { isGenesis } from "../src/MarkerFormat.ts"
import { MarkerLog, type MarkerLogOptions } from "../src/MarkerLog.ts"
import { isWaiting, outcomeOf, settle } from "./support/engine.ts"
import {
  append,
  capsuleNumber,
  chainOf,
  database,
  directory,
  diskOf,
  filesOf,
  headerBytes,
  open as openFiles,
  recordBytes,
  scan,
  segmentFile,
  seqOf,
  seqsOf,
  upTo,
  visited,
  withVfs,
  zeroId
} from "./support/markers.ts"
import { flipped } from "./support/walFiles.ts"

/** Records of a segment of these logs. */
const per = 40

type Log = MarkerLog["Service"]

/** Opens the log of a disk as a process of its own. */
const openLog = (disk: MemoryDisk, options: Partial<MarkerLogOptions> & { readonly perSegment?: number } = {}) =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const layer = Layer.effect(MarkerLog, openMarkerLog({ database, perSegment: per, ...options }))
    const context = yield* Layer.buildWithScope(
      Layer.fresh(Layer.provide(layer, Layer.fresh(MemoryVfs.layerDisk(disk)))),
      scope
    ).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
    return { log: Context.get(context, MarkerLog), close: Scope.close(scope, Exit.void) }
  })

const commit = (log: Log, number: number) => log.append({ capsule: capsuleNumber(number) })
const everything = (log: Log) => Stream.runCollect(log.range(seqOf(0), seqOf(10_000)))

describe("MarkerLog: appending", () => {
  it.effect("GC-02 CO-09 writers share syncs; every commit has one marker, dense and chained, durable when it answers", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const trace = disk.record()
      const { close, log } = yield* openLog(disk, { perSegment: 1000 })
      assert.strictEqual(log.tip(), 0n)
      const answers = yield* Effect.forEach(
        Array.from({ length: 16 }, (_, writer) => writer),
        (writer) =>
          Effect.forEach(
            Array.from({ length: 50 }, (_, i) => writer * 50 + i),
            (number) =>
              Effect.tap(commit(log, number), (marker) =>
                Effect.sync(() => {
                  assert.isAtLeast(Number(log.tip()), Number(marker.seq))
                  assert.deepStrictEqual(marker.capsule, capsuleNumber(number))
                }))
          ),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(answers.flat().map(({ seq }) => Number(seq)).toSorted((a, b) => a - b), upTo(800, 1))
      const syncs = trace.steps.filter(({ kind }) => kind === "syncData").length
      assert.isBelow(syncs, 120)
      assert.isAtLeast(syncs, 50)
      const markers = yield* everything(log)
      assert.deepStrictEqual(markers.slice(1), answers.flat().toSorted((a, b) => Number(a.seq - b.seq)))
      assert.deepStrictEqual(yield* log.verifyChain, { markers: 801 })
      yield* close
      disk.crash("lost")
      assert.deepStrictEqual(yield* visited(disk, 0, 1000), markers)
    }))

  it.effect("a proof, a record that is read back, a time that is found", () =>
    Effect.gen(function*() {
      const { log } = yield* openLog(diskOf())
      const first = yield* commit(log, 1)
      const second = yield* log.append({ capsule: capsuleNumber(2), proof: capsuleNumber(3) })
      assert.deepStrictEqual(second.proof, capsuleNumber(3))
      assert.deepStrictEqual(second.previous, first.id)
      assert.deepStrictEqual(yield* log.read(second.seq), second)
      assert.strictEqual(yield* log.read(seqOf(3)), undefined)
      assert.strictEqual(yield* log.sequenceAt(first.timeUnixNanos), 1n)
      assert.strictEqual(yield* log.sequenceAt(2n ** 63n), 2n)
    }))

  it.effect("a commit of nothing is its writer's defect, and nobody else's, also when it had to wait for room", () =>
    Effect.gen(function*() {
      for (const maxQueuedBytes of [undefined, recordBytes]) {
        const { close, log } = yield* openLog(diskOf(), { maxQueuedBytes })
        const exits = yield* Effect.all([
          Effect.exit(commit(log, 1)),
          Effect.exit(log.append({ capsule: zeroId })),
          Effect.exit(commit(log, 2))
        ], { concurrency: "unbounded" })
        assert.deepStrictEqual(exits.map(Exit.isSuccess), [true, false, true])
        assert.isTrue(exits.some((exit) => Exit.isFailure(exit) && Cause.hasDies(exit.cause)))
        assert.deepStrictEqual(seqsOf(yield* everything(log)), [0, 1, 2])
        yield* close
      }
    }))

  it.effect("GC-11 CO-18 a writer over the bound waits having no sequence; interrupted there it leaves no trace, behind it one", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const { log } = yield* openLog(disk, { maxQueuedBytes: 2 * recordBytes })
      const held = disk.hold({ operation: "syncData", path: segmentFile(0) })
      const start = (number: number) => Effect.forkChild(commit(log, number), { startImmediately: true })
      const first = yield* start(1)
      yield* held.reached
      const second = yield* start(2)
      const third = yield* start(3)
      const fourth = yield* start(4)
      yield* settle
      for (const fiber of [first, second, third, fourth]) assert.isTrue(isWaiting(fiber))
      yield* Fiber.interrupt(third)
      yield* Fiber.interrupt(second)
      assert.strictEqual(log.tip(), 0n)
      assert.strictEqual(yield* log.read(seqOf(1)), undefined)
      yield* held.release
      assert.strictEqual((yield* Fiber.join(first)).seq, 1n)
      assert.strictEqual((yield* Fiber.join(fourth)).seq, 3n)
      assert.deepStrictEqual((yield* everything(log)).map(({ capsule }) => capsule), [
        zeroId,
        capsuleNumber(1),
        capsuleNumber(2),
        capsuleNumber(4)
      ])
    }))

  it.effect("CO-16 what is handed over and not durable is not there, whatever has become durable before it", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const { log } = yield* openLog(disk)
      const first = disk.hold({ operation: "syncData", path: segmentFile(0) })
      const one = yield* Effect.forkChild(commit(log, 1), { startImmediately: true })
      yield* first.reached
      const two = yield* Effect.forkChild(commit(log, 2), { startImmediately: true })
      const second = disk.hold({ operation: "syncData", path: segmentFile(0) })
      yield* first.release
      yield* Fiber.join(one)
      yield* second.reached
      assert.strictEqual(log.tip(), 1n)
      assert.strictEqual(yield* log.read(seqOf(2)), undefined)
      assert.deepStrictEqual(seqsOf(yield* everything(log)), [0, 1])
      yield* second.release
      yield* Fiber.join(two)
      assert.strictEqual(log.tip(), 2n)
      assert.deepStrictEqual(seqsOf(yield* everything(log)), [0, 1, 2])
    }))

  it.effect("GC-14 closing drains, then refuses", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const { close, log } = yield* openLog(disk)
      const waiting = yield* Effect.forkChild(Effect.forEach([1, 2, 3], (n) => commit(log, n), { concurrency: 3 }), {
        startImmediately: true
      })
      yield* close
      assert.deepStrictEqual(seqsOf(yield* Fiber.join(waiting)), [1, 2, 3])
      assert.strictEqual(yield* outcomeOf(commit(log, 4)), "LogClosed")
      assert.strictEqual(log.ended()?._tag, "LogClosed")
      disk.crash("lost")
      assert.strictEqual((yield* scan(disk, undefined, per)).last?.seq, 3n)
    }))

  it.effect("GC-15 syncs and commits are counted under the directory's name", () =>
    Effect.gen(function*() {
      const { log } = yield* openLog(diskOf())
      yield* commit(log, 1)
      yield* commit(log, 2)
      const of = <Input, State>(metric: Metric.Metric<Input, State>) =>
        Metric.value(Metric.withAttributes(metric, { log: directory }))
      assert.strictEqual((yield* of(LogMetrics.commits)).count, 2)
      assert.strictEqual((yield* of(LogMetrics.syncs)).count, 2)
      assert.deepInclude(yield* of(LogMetrics.batchBytes), { count: 2, sum: 2 * recordBytes })
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})

describe("MarkerLog: failing operations", () => {
  const isSegment = /segment-\d+\.log$/
  const faults: ReadonlyArray<readonly [string, DiskMatch & { readonly fault: Fault }]> = [
    ["a write without space", { operation: "write", path: isSegment, fault: { kind: "error", code: "ENOSPC" } }],
    ["a short write", { operation: "write", path: isSegment, fault: { kind: "shortWrite", bytes: 40 } }],
    ["a failed sync", { operation: "syncData", path: isSegment, fault: { kind: "error", code: "EIO" } }],
    ["a sync that loses what it should keep", { operation: "syncData", path: isSegment, fault: { kind: "lostSync" } }],
    ["the rename of a new segment", { operation: "rename", fault: { kind: "error", code: "EIO" } }],
    ["the header of one", { operation: "syncFull", path: /\.tmp-segment/, fault: { kind: "error", code: "EIO" } }],
    ["the sync of the directory", { operation: "syncDirectory", fault: { kind: "error", code: "EIO" } }]
  ]

  it.effect.each(faults)(
    "GC-07 GC-08 CO-05 %s poisons: nobody is acknowledged wrongly, nothing is written again",
    ([, plan]) =>
      Effect.gen(function*() {
        let struck = 0
        for (let skip = 0; skip < 6; skip++) {
          const disk = MemoryDisk.make({ async: { seed: skip, maxTurns: 2 } })
          const { close, log } = yield* openLog(disk, { perSegment: 9 })
          const handle = disk.inject({ ...plan, skip })
          const acknowledged: Array<number> = []
          const outcomes = yield* Effect.forEach(upTo(30, 1), (number) =>
            commit(log, number).pipe(
              Effect.tap(({ seq }) =>
                Effect.sync(() => {
                  acknowledged.push(Number(seq))
                })
              ),
              outcomeOf
            ), { concurrency: 3 })
          if (handle.hits === 0) {
            yield* close
            continue
          }
          struck++
          assert.strictEqual(outcomes.at(-1), "WalPoisoned")
          const ended = log.ended()
          assert.strictEqual(ended?._tag, "WalPoisoned")
          if (ended?._tag === "WalPoisoned") assert.deepInclude(Cause.squash(ended.cause), { _tag: "VfsError" })
          assert.deepStrictEqual(acknowledged, upTo(acknowledged.length, 1))
          assert.strictEqual(log.tip(), seqOf(acknowledged.length))
          yield* settle
          const trace = disk.record()
          for (const call of [commit(log, 1), log.flush]) assert.strictEqual(yield* outcomeOf(call), "WalPoisoned")
          // What was durable can still be read.
          assert.deepStrictEqual(seqsOf(yield* everything(log)), upTo(acknowledged.length))
          yield* close
          trace.stop()
          assert.deepStrictEqual(trace.steps, [])
          // Opened again it holds what was acknowledged, and goes on.
          const { log: next } = yield* openLog(disk, { perSegment: 9 })
          const kept = yield* everything(next)
          assert.deepStrictEqual(seqsOf(kept), upTo(kept.length - 1))
          assert.isAtLeast(kept.length - 1, acknowledged.length)
          assert.strictEqual((yield* commit(next, 99)).seq, seqOf(kept.length))
        }
        assert.isAbove(struck, 0)
      })
  )
})

describe("MarkerLog: opening", () => {
  it.effect("says what it found: a new stream, a torn end (RC-14), swept files (RC-25)", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const { close, log } = yield* openLog(disk)
      assert.deepStrictEqual(log.recovery, {
        cases: [],
        isNew: true,
        droppedBytes: 0,
        damage: undefined,
        verifiedFrom: seqOf(0),
        last: undefined,
        next: seqOf(1)
      })
      yield* Effect.forEach([1, 2, 3], (number) => commit(log, number))
      yield* close
      const bytes = disk.readFile(segmentFile(0)) ?? zeroId
      disk.writeFile(segmentFile(0), bytes.slice(0, -30))
      disk.writeFile(`${directory}/.tmp-segment-000001.log-0badcafe`, new Uint8Array(9))
      const { log: again } = yield* openLog(disk, { verify: "all" })
      assert.deepStrictEqual(again.recovery, {
        cases: ["RC-14", "RC-25"],
        isNew: false,
        droppedBytes: recordBytes - 30,
        damage: undefined,
        verifiedFrom: seqOf(0),
        last: seqOf(2),
        next: seqOf(3)
      })
      assert.strictEqual((yield* commit(again, 33)).seq, 3n)
    }))

  it.effect("LOG-10 one process writes a stream at a time, and lets go when it closes or dies", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const { close } = yield* openLog(disk)
      const refused = yield* Effect.flip(openLog(disk))
      assert.strictEqual(refused._tag, "LogLocked")
      assert.isTrue("holderPid" in refused && refused.holderPid !== undefined)
      yield* close
      yield* openLog(disk)
      disk.kill()
      const { log } = yield* openLog(disk)
      assert.strictEqual((yield* commit(log, 1)).seq, 1n)
    }))

  it.effect("RC-26 damage is refused having changed nothing, unless the loss is accepted", () =>
    Effect.gen(function*() {
      const stream = chainOf([{ start: 0, commits: 30 }])
      const files = filesOf(stream, per)
      const bytes = flipped(files.get(segmentFile(0)) ?? zeroId, headerBytes + 9 * recordBytes + 3)
      const disk = diskOf([[segmentFile(0), bytes]])
      const refused = yield* Effect.flip(openLog(disk))
      assert.strictEqual(refused._tag, "MarkersDamaged")
      if (refused._tag !== "MarkersDamaged") return
      assert.strictEqual(refused.last, 8n)
      assert.strictEqual(refused.damage.recordsBehind, 21)
      assert.include(refused.message, "21 good records behind it")
      assert.notInclude(refused.message, "power loss")
      assert.deepStrictEqual(disk.readFile(segmentFile(0)), bytes)
      const { log } = yield* openLog(disk, { acceptLoss: true })
      assert.deepStrictEqual(log.recovery.cases, ["RC-26"])
      assert.deepStrictEqual(log.recovery.damage, refused.damage)
      const next = yield* commit(log, 77)
      assert.strictEqual(next.seq, BigInt(per + 1))
      assert.deepStrictEqual(seqsOf(yield* everything(log)), [...upTo(8), per, per + 1])
      assert.deepStrictEqual(yield* log.verifyChain, { markers: 11 })
    }))

  it.effect("checks what one batch can hold, or everything", () =>
    Effect.gen(function*() {
      // A long stream, the bad record far from its end.
      const count = 100_100
      const disk = diskOf()
      const many = 200_000
      yield* withVfs(disk, (vfs) => Effect.flatMap(openFiles(vfs, { per: many }), (files) => append(files, count)))
      const bytes = disk.readFile(segmentFile(0)) ?? zeroId
      disk.writeFile(segmentFile(0), flipped(bytes, headerBytes + 50 * recordBytes))
      const newest = yield* openLog(disk, { perSegment: many })
      assert.strictEqual(newest.log.recovery.verifiedFrom, seqOf(count - Math.ceil(8 * 1024 * 1024 / recordBytes)))
      const unreadable = yield* Effect.flip(newest.log.verifyChain)
      assert.strictEqual(unreadable._tag, "MarkerUnreadable")
      yield* newest.close
      assert.strictEqual(
        (yield* Effect.flip(openLog(disk, { perSegment: many, verify: "all" })))._tag,
        "MarkersDamaged"
      )
      const wide = yield* Effect.flip(openLog(disk, { perSegment: many, maxBatchBytes: 9 * 1024 * 1024 }))
      assert.strictEqual(wide._tag, "MarkersDamaged")
    }))

  it.effect("goes on above sequences that something else has used", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const { close, log } = yield* openLog(disk, { tip: seqOf(3) })
      assert.strictEqual((yield* commit(log, 1)).seq, BigInt(per + 1))
      yield* close
      const { log: again } = yield* openLog(disk, { tip: seqOf(3) })
      assert.strictEqual((yield* commit(again, 2)).seq, BigInt(per + 2))
      assert.isTrue((yield* everything(again)).filter(isGenesis).length === 1)
    }))

  it.effect("the layer and its configuration", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const withConfig = (values: Record<string, string>) =>
        MarkerLog.use((log) => Effect.as(commit(log, 1), log.directory)).pipe(
          Effect.provide(
            MarkerLog.layerConfig.pipe(
              Layer.provide(MemoryVfs.layerDisk(disk)),
              Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(values)))
            ),
            { local: true }
          )
        )
      assert.strictEqual(yield* withConfig({ TIDEMARK_DATABASE: "/a.db" }), "/a.db.fsqlite/markers")
      assert.strictEqual(
        yield* withConfig({
          TIDEMARK_DATABASE: "/b.db",
          TIDEMARK_MARKER_LOG_VERIFY: "all",
          TIDEMARK_MARKER_LOG_ACCEPT_LOSS: "true",
          TIDEMARK_MARKER_LOG_MAX_BATCH_BYTES: "880",
          TIDEMARK_MARKER_LOG_MAX_QUEUED_BYTES: "1760",
          TIDEMARK_MARKER_LOG_COMMIT_DELAY: "0 millis",
          TIDEMARK_MARKER_LOG_COMMIT_SIBLINGS: "3"
        }),
        "/b.db.fsqlite/markers"
      )
      assert.strictEqual(
        disk.readFile("/b.db.fsqlite/markers/segment-000000.log")?.length,
        headerBytes + 2 * recordBytes
      )
      for (
        const [name, value] of [
          ["TIDEMARK_MARKER_LOG_VERIFY", "some"],
          ["TIDEMARK_MARKER_LOG_ACCEPT_LOSS", "perhaps"],
          ["TIDEMARK_MARKER_LOG_MAX_BATCH_BYTES", "0"],
          ["TIDEMARK_MARKER_LOG_MAX_QUEUED_BYTES", "many"],
          ["TIDEMARK_MARKER_LOG_COMMIT_DELAY", "soon"],
          ["TIDEMARK_MARKER_LOG_COMMIT_SIBLINGS", "-1"]
        ] as const
      ) {
        const error = yield* Effect.flip(withConfig({ TIDEMARK_DATABASE: "/c.db", [name]: value }))
        assert.strictEqual(error._tag, "ConfigError", name)
        assert.include(error.message, name)
      }
      assert.strictEqual((yield* Effect.flip(withConfig({})))._tag, "ConfigError")
    }))

  it.effect("LOG-03 a power loss at any step of writers that share syncs keeps what was acknowledged, as a prefix", () =>
    Effect.gen(function*() {
      const disk = diskOf()
      const trace = disk.record<number>()
      const { close, log } = yield* openLog(disk)
      yield* Effect.forEach(
        upTo(90, 1),
        (number) => Effect.tap(commit(log, number), ({ seq }) => Effect.sync(() => trace.mark(Number(seq)))),
        { concurrency: 17 }
      )
      const markers = yield* everything(log)
      yield* close
      trace.stop()
      let states = 0
      for (const state of trace.crashStates({ exhaustiveUpTo: 5, perStep: 5, steps: (step) => step % 2 === 0 })) {
        states++
        yield* Effect.scoped(Effect.gen(function*() {
          const { log } = yield* openLog(state.disk, { acceptLoss: true })
          const { damage, last } = log.recovery
          if (damage !== undefined) assert.isTrue(damage.couldBeTorn, state.label)
          const kept = Number(last ?? 0n)
          assert.isAtLeast(kept, Math.max(0, ...state.marks), state.label)
          const next = yield* commit(log, 1000)
          const all = yield* everything(log)
          assert.deepStrictEqual(all.slice(0, kept), markers.slice(0, kept), state.label)
          assert.deepStrictEqual(all.at(-1), next, state.label)
        }))
      }
      assert.isAbove(states, 60)
    }))
})

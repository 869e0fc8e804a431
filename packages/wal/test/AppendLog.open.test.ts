/** Opening an append log: what is repaired, what is refused, who is kept out, how it is configured. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { AppendLog } from "../src/AppendLog.ts"
import { encodeSegmentHeader, segmentFileName } from "../src/AppendLogFormat.ts"
import { bytesOf, memoryDirectory, numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { outcomeOf } from "./support/engine.ts"

const contentsOf = (disk: MemoryDisk) => disk.files.map((path) => [path, disk.readFile(path)] as const)
const segmentsOn = (disk: MemoryDisk) => disk.files.filter((path) => path.endsWith(".tlog"))

/** A disk with a log of some segments, closed. */
const written = Effect.gen(function*() {
  const disk = MemoryDisk.make({ async: false })
  const { close, log } = yield* openMemory(disk, { segmentBytes: 400 })
  const appended = yield* Effect.forEach([...Array(40).keys()], (number) => log.append(payloadOf(number, 30)))
  yield* close
  return { disk, appended, segments: segmentsOn(disk) }
})

const flip = (disk: MemoryDisk, path: string, offset: number) => {
  const bytes = disk.readFile(path) ?? new Uint8Array(0)
  bytes[offset] = (bytes[offset] ?? 0) ^ 1
  disk.writeFile(path, bytes)
}

describe("AppendLog opening", () => {
  const damages: ReadonlyArray<readonly [string, (disk: MemoryDisk, segments: ReadonlyArray<string>) => void]> = [
    ["a flipped bit in a record of the first segment", (disk, [first = ""]) => flip(disk, first, 80)],
    [
      "a flipped bit in front of a later batch of the last segment",
      (disk, segments) => flip(disk, segments.at(-1) ?? "", 80)
    ],
    ["a flipped bit in a header", (disk, [first = ""]) => flip(disk, first, 20)],
    [
      "a segment that is cut off",
      (disk, [first = ""]) => disk.writeFile(first, disk.readFile(first)?.slice(0, 200) ?? new Uint8Array(0))
    ],
    ["an empty segment", (disk, [, second = ""]) => disk.writeFile(second, new Uint8Array(0))],
    ["a segment of another log", (disk, [, second = ""]) => {
      const bytes = disk.readFile(second) ?? new Uint8Array(0)
      bytes.set(
        encodeSegmentHeader({
          logId: new Uint8Array(16).fill(3),
          startLsn: toLsn(Number.parseInt(second.slice(-21, -5), 16)),
          segmentIndex: 1n,
          createdUnixNanos: 0n
        })
      )
      disk.writeFile(second, bytes)
    }],
    [
      "something else under the name of a segment",
      (disk) => disk.writeFile(`${memoryDirectory}/${segmentFileName(toLsn(1_000_000))}`, bytesOf("# not a segment"))
    ]
  ]

  it.effect.each(damages)(
    "RC-13 LOG-05 %s: refused, nothing changed, and whole again it opens",
    ([, damage]) =>
      Effect.gen(function*() {
        const { disk, segments } = yield* written
        const whole = contentsOf(disk)
        damage(disk, segments)
        const before = contentsOf(disk)
        const error = yield* Effect.flip(Effect.scoped(openMemory(disk)))
        assert.strictEqual(error._tag, "LogCorrupt")
        if (error._tag !== "LogCorrupt") return
        assert.include(disk.files, error.path)
        assert.isTrue(error.offset >= 0 && error.lsn >= 0)
        assert.deepStrictEqual(contentsOf(disk), before)
        for (const [path, bytes] of whole) disk.writeFile(path, bytes ?? new Uint8Array(0))
        if (whole.length < before.length) return
        // A log that was refused is not locked any more.
        const { log } = yield* openMemory(disk, { segmentBytes: 400 })
        assert.strictEqual((yield* readAll(log)).length, 40)
      })
  )

  it.effect("RC-13 LOG-05 a missing segment in the middle", () =>
    Effect.gen(function*() {
      const { disk, segments } = yield* written
      const copy = MemoryDisk.make({ async: false })
      for (const path of disk.files) {
        if (path !== segments[2]) copy.writeFile(path, disk.readFile(path) ?? new Uint8Array(0))
      }
      const before = contentsOf(copy)
      assert.strictEqual(yield* outcomeOf(Effect.scoped(openMemory(copy))), "LogCorrupt")
      assert.deepStrictEqual(contentsOf(copy), before)
    }))

  it.effect("RC-12 LOG-06 a torn tail is cleared and reported, durably, before anything is appended", () =>
    Effect.gen(function*() {
      const { disk, segments } = yield* written
      const last = segments.at(-1) ?? ""
      const bytes = disk.readFile(last) ?? new Uint8Array(0)
      const first = yield* openMemory(disk, { segmentBytes: 400 })
      const { end } = first.log.recovery
      yield* first.close
      const offset = 64 + end - Number.parseInt(last.slice(-21, -5), 16)
      const torn = new Uint8Array(offset + 60)
      torn.set(bytes.subarray(0, offset))
      torn.fill(0xaa, offset + 8, offset + 50)
      disk.writeFile(last, torn)
      const trace = disk.record()
      const { log } = yield* openMemory(disk, { segmentBytes: 400 })
      trace.stop()
      assert.deepInclude(log.recovery, { cases: ["RC-12"], droppedBytes: 50, end, isNew: false })
      assert.isTrue((disk.readFile(last) ?? torn).subarray(offset).every((byte) => byte === 0))
      const cleared = trace.steps.findIndex((step) => step.kind === "write" && step.path === last)
      const synced = trace.steps.findIndex((step) => step.kind === "syncFull" && step.path === last)
      assert.isTrue(cleared >= 0 && cleared < synced)
      assert.deepStrictEqual((yield* readAll(log)).map(({ payload }) => numberOf(payload)), [...Array(40).keys()])
    }))

  it.effect("RC-12 a log that ends in the middle of its first header never began, and begins now", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      disk.writeFile(`${memoryDirectory}/.tmp-segment-0000000000000000`, new Uint8Array(40).fill(1))
      const { log } = yield* openMemory(disk)
      assert.deepInclude(log.recovery, { isNew: true, cases: ["RC-25"] })
      assert.strictEqual((yield* log.append(bytesOf("first"))).start, 0)
    }))

  it.effect("LOG-10 a second opener is told who has the log; when that one is gone, it opens", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const first = yield* openMemory(disk)
      const error = yield* Effect.flip(Effect.scoped(openMemory(disk)))
      assert.deepInclude(error, { _tag: "LogLocked", path: memoryDirectory, holderPid: 1001, isRetryable: true })
      assert.include(error.message, "1001")
      yield* first.log.append(bytesOf("mine"))
      // What the file says about somebody who is not alive is not believed.
      yield* first.close
      const { close } = yield* openMemory(disk)
      disk.writeFile(`${memoryDirectory}/lock`, new Uint8Array(56))
      assert.deepInclude(yield* Effect.flip(Effect.scoped(openMemory(disk))), {
        _tag: "LogLocked",
        holderPid: undefined
      })
      yield* close

      const second = yield* openMemory(disk)
      disk.kill()
      const third = yield* openMemory(disk)
      assert.strictEqual((yield* readAll(third.log)).length, 1)
      assert.strictEqual(yield* outcomeOf(second.log.append(bytesOf("late"))), "WalPoisoned")
    }))

  it.effect("LOG-10 a stale note about a process that is dead is not passed on", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const first = yield* openMemory(disk)
      const note = disk.readFile(`${memoryDirectory}/lock`) ?? new Uint8Array(0)
      yield* first.close
      const { close } = yield* openMemory(disk)
      disk.writeFile(`${memoryDirectory}/lock`, note)
      assert.deepInclude(yield* Effect.flip(Effect.scoped(openMemory(disk))), { holderPid: undefined })
      yield* close
    }))

  it.effect("a platform without kernel locks is refused, never shared silently", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const unavailable = (path: string) => Effect.fail(new FileLockUnavailable({ path, reason: "of the test" }))
      const locks = Layer.succeed(
        FileLock,
        FileLock.of({ acquire: unavailable, isHeld: unavailable })
      )
      const platform = Layer.merge(MemoryVfs.layerDisk(disk), locks)
      const opening = Effect.scoped(AppendLog.open({ directory: memoryDirectory })).pipe(Effect.provide(platform))
      assert.strictEqual(yield* outcomeOf(opening), "FileLockUnavailable")
      assert.deepStrictEqual(disk.files, [])
    }))

  it.effect("a directory that cannot be made, listed or written is a VfsError, and the lock is let go", () =>
    Effect.gen(function*() {
      for (
        const operation of ["makeDirectory", "list", "open", "write", "syncFull", "rename", "syncDirectory"] as const
      ) {
        for (let skip = 0; skip < 4; skip++) {
          const disk = MemoryDisk.make({ async: false })
          const fault = disk.inject({ operation, skip, fault: { kind: "error", code: "EACCES" } })
          const outcome = yield* outcomeOf(Effect.scoped(openMemory(disk)))
          assert.strictEqual(outcome, fault.hits > 0 ? "VfsError" : "success", `${operation} ${skip}`)
          fault.remove()
          const { close, log } = yield* openMemory(disk)
          yield* log.append(bytesOf("x"))
          yield* close
        }
      }
    }))

  it.effect("an opening that fails or is interrupted lets go of everything, though its scope goes on", () =>
    Effect.gen(function*() {
      const { disk } = yield* written
      const opening = AppendLog.open({ directory: memoryDirectory })
      yield* Effect.gen(function*() {
        for (const operation of ["list", "read", "write", "syncFull"] as const) {
          const match = { operation, path: (path: string) => path.startsWith(memoryDirectory) }
          disk.inject({ ...match, fault: { kind: "error", code: "EIO" } })
          assert.strictEqual(yield* outcomeOf(opening), "VfsError", operation)
          const hold = disk.hold(match)
          const fiber = yield* Effect.forkChild(opening, { startImmediately: true })
          yield* hold.reached
          const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
          yield* hold.release
          yield* Fiber.join(interrupting)
          // Locks exclude within a process as well.
          yield* Effect.scoped(opening)
        }
      }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
    }))

  it.effect("the layer and its configuration", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const withConfig = (values: Record<string, string>) =>
        AppendLog.useSync(({ directory }) => directory).pipe(
          Effect.provide(
            AppendLog.layerConfig.pipe(
              Layer.provide(MemoryVfs.layerDisk(disk)),
              Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(values)))
            ),
            { local: true }
          )
        )
      assert.strictEqual(yield* withConfig({ TIDEMARK_LOG_DIRECTORY: "/logs/a" }), "/logs/a")
      assert.strictEqual(
        yield* withConfig({
          TIDEMARK_LOG_DIRECTORY: "/logs/b",
          TIDEMARK_LOG_SEGMENT_BYTES: "4096",
          TIDEMARK_LOG_MAX_RECORD_BYTES: "1000",
          TIDEMARK_LOG_PREALLOCATE_BYTES: "0",
          TIDEMARK_LOG_MAX_BATCH_BYTES: "2000",
          TIDEMARK_LOG_MAX_QUEUED_BYTES: "3000",
          TIDEMARK_LOG_COMMIT_DELAY: "2 millis",
          TIDEMARK_LOG_COMMIT_SIBLINGS: "3"
        }),
        "/logs/b"
      )
      for (
        const [name, value] of [
          ["TIDEMARK_LOG_SEGMENT_BYTES", "10"],
          ["TIDEMARK_LOG_MAX_RECORD_BYTES", "0"],
          ["TIDEMARK_LOG_MAX_RECORD_BYTES", "4294967296"],
          ["TIDEMARK_LOG_PREALLOCATE_BYTES", "-1"],
          ["TIDEMARK_LOG_MAX_BATCH_BYTES", "many"],
          ["TIDEMARK_LOG_COMMIT_DELAY", "soon"]
        ] as const
      ) {
        const error = yield* Effect.flip(withConfig({ TIDEMARK_LOG_DIRECTORY: "/logs/c", [name]: value }))
        assert.strictEqual(error._tag, "ConfigError", name)
        assert.include(error.message, name)
      }
      assert.strictEqual((yield* Effect.flip(withConfig({})))._tag, "ConfigError")
      const opening = (options: object) =>
        Effect.scoped(AppendLog.open({ directory: "/logs/d", ...options })).pipe(
          Effect.provide(MemoryVfs.layerDisk(disk))
        )
      for (
        const options of [{ segmentBytes: 64 }, { maxRecordBytes: 0 }, { maxRecordBytes: 2 ** 32 }, {
          preallocateBytes: -1
        }]
      ) {
        assert.strictEqual(yield* outcomeOf(opening(options)), "defect")
      }
    }))

  it.effect("two layers of one process exclude each other, and what they need comes from outside", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const program = Effect.gen(function*() {
        yield* Vfs
        yield* ProcessLiveness
        return yield* outcomeOf(Effect.scoped(AppendLog.open({ directory: memoryDirectory })))
      })
      const outcome = yield* program.pipe(
        Effect.provide(
          AppendLog.layer({ directory: memoryDirectory }).pipe(
            Layer.provideMerge(MemoryVfs.layerDisk(disk))
          )
        )
      )
      assert.strictEqual(outcome, "LogLocked")
    }))
})

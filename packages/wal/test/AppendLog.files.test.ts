/** The append log over real files, with real processes: locks, kills, full disks, and the bytes themselves. */
import { assert, describe, it } from "@effect/vitest"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { spawnSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import type { AppendLog } from "../src/AppendLog.ts"
import { numberOf, openOn, payloadOf, readAll } from "./support/appendLog.ts"
import { KilledLog } from "./support/appendLogKill.ts"
import { startProgram, temporaryDirectory } from "./support/children.ts"
import { outcomeOf } from "./support/engine.ts"

const numbers = (log: AppendLog["Service"]) =>
  Effect.map(readAll(log), (records) => records.map(({ payload }) => numberOf(payload)))

describe("AppendLog over files", () => {
  it.live("LOG-01 LOG-02 many writers, rotations, a reopening; each record where its LSN says", () =>
    Effect.gen(function*() {
      const directory = join(yield* temporaryDirectory, "deep", "log")
      const options = { directory, segmentBytes: 100_000 }
      const first = yield* openOn(NodeVfs.layer, options)
      const appended = yield* Effect.forEach(
        [...Array(3000).keys()],
        (number) => Effect.map(first.log.append(payloadOf(number, 20 + number % 200)), (at) => ({ number, ...at })),
        { concurrency: 100 }
      )
      const follower = yield* first.log.stream().pipe(Stream.runCount)
      assert.strictEqual(follower, 3000)
      yield* first.close
      const names = readdirSync(directory)
      assert.isTrue(names.length > 4, names.join(", "))
      assert.deepStrictEqual(names.filter((name) => !/^([0-9a-f]{16}\.tlog|lock)$/.test(name)), [])
      const segments = names.filter((name) => name.endsWith(".tlog")).map((name) => ({
        startLsn: Number.parseInt(name.slice(0, 16), 16),
        bytes: readFileSync(join(directory, name))
      }))
      for (const { number, start } of appended) {
        const { bytes, startLsn } = segments.findLast(({ startLsn }) => startLsn <= start) ?? assert.fail("no segment")
        const offset = 64 + start - startLsn
        assert.deepStrictEqual([bytes.readUInt32LE(offset), bytes.readUInt32LE(offset + 4)], [1, 20 + number % 200])
        assert.strictEqual(numberOf(bytes.subarray(offset + 8, offset + 28)), number)
      }
      const second = yield* openOn(NodeVfs.layer, options)
      const before = appended.toSorted((a, b) => a.start - b.start).map(({ number }) => number)
      assert.deepStrictEqual(yield* numbers(second.log), before)
      yield* second.log.append(payloadOf(3000))
      assert.deepStrictEqual(yield* numbers(second.log), [...before, 3000])
    }))

  it.live.skipIf(process.platform !== "linux")(
    "LOG-10 two processes: the second is told who holds the log; a killed one does not block",
    () =>
      Effect.gen(function*() {
        const directory = join(yield* temporaryDirectory, "log")
        const holder = yield* startProgram("appendLogHold.ts", [directory])
        yield* holder.until((lines) => lines.includes("open"))
        const error = yield* Effect.flip(Effect.scoped(openOn(NodeVfs.layer, { directory })))
        assert.deepInclude(error, { _tag: "LogLocked", path: directory, holderPid: holder.pid })
        const other = yield* startProgram("appendLogHold.ts", [directory])
        yield* other.until((lines) => lines.length > 0)
        assert.deepStrictEqual(other.lines, [`LogLocked ${holder.pid}`])
        yield* holder.kill
        const { close } = yield* openOn(NodeVfs.layer, { directory })
        const late = yield* startProgram("appendLogHold.ts", [directory])
        yield* late.until((lines) => lines.length > 0)
        assert.deepStrictEqual(late.lines, [`LogLocked ${process.pid}`])
        yield* close
      })
  )

  it.live("LOG-03 a process that appends is killed, again and again: nothing acknowledged is lost", () =>
    Effect.gen(function*() {
      const killed = new KilledLog(join(yield* temporaryDirectory, "log"))
      for (const [seed, lines] of [40, 1, 300, 150, 2, 700].entries()) {
        yield* Effect.scoped(killed.run({
          seed,
          segmentBytes: [5000, 60_000, 1_000_000][seed % 3] ?? 5000,
          isEnough: (seen) => seen >= lines
        }))
      }
      const { acknowledged, kills, truncations } = killed.totals
      assert.isTrue(kills === 6 && acknowledged > 2000 && truncations > 2, JSON.stringify(killed.totals))
    }))

  /** A file system that holds so many bytes, or `undefined` where this process may not mount one. */
  const smallFileSystem = (directory: string, bytes: number) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        mkdirSync(directory)
        const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tidemark-test", directory])
        return status === 0 ? directory : undefined
      }),
      (mounted) => Effect.sync(() => mounted === undefined ? undefined : spawnSync("umount", ["-l", mounted]))
    )

  it.live("LOG-11 a full file system: poisoned, readable, and going on when there is room", () =>
    Effect.gen(function*() {
      const directory = yield* smallFileSystem(join(yield* temporaryDirectory, "small"), 2_000_000)
      if (directory === undefined) return
      const options = { directory: join(directory, "log"), segmentBytes: 300_000 }
      const first = yield* openOn(NodeVfs.layer, options)
      const acknowledged: Array<number> = []
      const outcome = yield* Effect.forEach(
        [...Array(40_000).keys()],
        (number) =>
          Effect.map(first.log.append(payloadOf(number, 200)), () => {
            acknowledged.push(number)
          }),
        { concurrency: 50, discard: true }
      ).pipe(outcomeOf)
      assert.strictEqual(outcome, "WalPoisoned")
      const ended = String(first.log.ended())
      assert.include(ended, "ENOSPC", ended)
      const used = readdirSync(options.directory).reduce(
        (sum, name) => sum + statSync(join(options.directory, name)).size,
        0
      )
      assert.isTrue(acknowledged.length * 200 > 1_000_000 && used > 1_500_000, `${acknowledged.length}, ${used}`)
      assert.includeMembers([...(yield* numbers(first.log))], acknowledged)
      yield* first.close
      const second = yield* openOn(NodeVfs.layer, options)
      const found = yield* numbers(second.log)
      assert.includeMembers([...found], acknowledged)
      yield* second.log.truncateBefore(second.log.watermarks().durable)
      yield* second.log.append(payloadOf(50_000, 200))
      assert.deepStrictEqual(yield* numbers(second.log), [50_000])
    }))
})

/** Who is kept out, by whom, and for how long (SWAL-10): with real processes and the locks of the kernel. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as LeaseFormat from "../src/LeaseFormat.ts"
import { startProgram, temporaryDirectory } from "./support/children.ts"
import { Ledger } from "./support/ledger.ts"
import { expectedRows, inspectWithSqlite, readRecorded, recordTransactions } from "./support/sqliteRecording.ts"
import { commit, memoryPath, openMemory, openOn, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)

const lease = (pid: number) =>
  LeaseFormat.encode({
    pid,
    birth: 1n,
    generation: 1n,
    acquiredUnixMillis: 0,
    expiresUnixMillis: 1
  })

/** SQLite's codes for "somebody else is in": BUSY and PROTOCOL. */
const isKeptOut = (code: string | undefined) => code === "5" || code === "15"

describe.skipIf(process.platform !== "linux")("SqliteWal locks", () => {
  it.live("SWAL-10 SQLite processes that come and go while commits go on never get in, and do afterwards", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      const count = 60
      recordTransactions(path, 4096, count)
      const opened = yield* openOn(NodeVfs.layer, { database: path, autoCheckpointFrames: 20, restartFrames: 40 })
      const children = yield* Effect.all([
        startProgram("sqliteLoop.ts", [path, "write", "anew"]),
        startProgram("sqliteLoop.ts", [path, "read", "kept"])
      ])
      let last = opened.log.published().commitSeq
      const inode = statSync(`${path}-wal`).ino
      const transactions = readRecorded(path)
      for (const [number, transaction] of transactions.entries()) {
        // Spread over their rounds, so that they meet every state of the log.
        const rounds = 1 + Math.floor(number / 4)
        yield* Effect.forEach(children, (child) => child.until((lines) => lines.length > rounds), { discard: true })
        last = yield* commit(
          opened.log,
          () => ({ written: transaction.pages, databasePages: transaction.databasePages }),
          { lastSeq: () => last, maxPages: transaction.pages.size }
        )
        if (number === 30) yield* opened.wal.checkpoint("truncate")
      }
      assert.strictEqual(statSync(`${path}-wal`).ino, inode, "nobody deleted the log")
      const rounds = children.flatMap((child) => child.lines.slice(1))
      assert.isTrue(rounds.length >= 30)
      for (const round of rounds) {
        const [read, write, checkpoint] = round.split(" ")
        assert.isTrue(isKeptOut(read), `a read: ${round}`)
        assert.isTrue(write === "-1" || isKeptOut(write), `a write: ${round}`)
        assert.isTrue(isKeptOut(checkpoint), `a checkpoint: ${round}`)
      }
      const seen = children.map((child) => child.lines.length)
      yield* opened.close
      yield* Effect.forEach(
        children,
        (child, n) => child.until((lines) => lines.slice((seen[n] ?? 0) + 1).some((line) => line.startsWith("0 "))),
        {
          discard: true
        }
      )
      yield* Effect.forEach(children, (child) => child.kill, { discard: true })
      const found = inspectWithSqlite(path)
      assert.deepStrictEqual(found.integrity, ["ok"])
      const written = (rows: ReadonlyArray<unknown>) => rows.filter((row) => Array.isArray(row) && row[0] !== 1)
      assert.deepStrictEqual(written(found.rows), written(expectedRows(count)))
    }))

  it.live("SWAL-10 across a take-over: what SQLite does in between loses no commit, and nobody is in while we are", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      const ledger = new Ledger(pageSize)
      const child = yield* Effect.gen(function*() {
        const first = yield* openOn(NodeVfs.layer, { database: path, create: { pageSize } })
        yield* ledger.commit(first, { pages: [2, 3], databasePages: 4 })
        yield* first.close
        return yield* startProgram("sqliteLoop.ts", [path, "read", "anew"])
      })
      let current = ledger
      let refused = 0
      for (let round = 0; round < 25; round++) {
        const attempt = openOn(NodeVfs.layer, { database: path, autoCheckpointFrames: 0 })
        const opened = yield* Effect.catchTag(attempt, "Busy", () => Effect.undefined)
        if (opened === undefined) {
          refused++
          // It is in: its next line comes when it has been closed.
          const seen = child.lines.length
          yield* child.until((lines) => lines.length > seen)
          continue
        }
        const tip = opened.log.published().commitSeq
        assert.isTrue(tip >= current.lastSeq, `${tip} after ${current.lastSeq}`)
        current = new Ledger(pageSize, tip, current.version(current.lastSeq))
        yield* current.checkTip(opened, `round ${round}`)
        const seen = child.lines.length
        yield* current.commit(opened, { pages: [2 + round % 3], databasePages: 4 + round % 3 })
        yield* child.until((lines) => lines.length > seen + 2)
        // The first round may have begun before we came.
        for (const line of child.lines.slice(seen + 1)) assert.isTrue(isKeptOut(line.split(" ")[0]), line)
        yield* current.checkTip(opened, `round ${round}, afterwards`)
        yield* opened.close
      }
      assert.isTrue(refused < 25, "it was open most of the time")
    }))

  it.live.each([
    { what: "open", tag: "success" },
    { what: "read", tag: "Busy" },
    { what: "readTransaction", tag: "Busy" },
    { what: "writeTransaction", tag: "Busy" }
  ])(
    "SWAL-10 RC-24 a SQLite connection that is in ($what) before us: $tag, and nothing is changed",
    ({ tag, what }) =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const path = join(directory, "test.db")
        recordTransactions(path, 4096, 2)
        const child = yield* startProgram("sqliteHold.ts", [path, what])
        yield* child.until((lines) => lines.includes("ready"))
        const files = () =>
          ["", "-wal", "-shm"].map((suffix) =>
            existsSync(`${path}${suffix}`) ? readFileSync(`${path}${suffix}`).toString("base64") : "missing"
          )
        const before = files()
        const attempt = Effect.match(openOn(NodeVfs.layer, { database: path }), {
          onFailure: (error) => error._tag,
          onSuccess: () => "success"
        })
        assert.strictEqual(yield* attempt, tag)
        if (tag === "success") return
        assert.deepStrictEqual(files(), before)
        assert.isFalse(existsSync(`${path}.fsqlite`))
        yield* child.kill
        assert.strictEqual(yield* attempt, "success")
      })
  )

  it.live("SWAL-10 a killed process lets SQLite in at once", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      recordTransactions(path, 4096, 5)
      const child = yield* startProgram("commitRecorded.ts", [path])
      yield* child.until((lines) => lines.includes("done"))
      yield* child.kill
      assert.deepStrictEqual(inspectWithSqlite(path), { integrity: ["ok"], rows: expectedRows(5) })
    }))

  it.live("SWAL-10 LOG-10 a second Tidemark process gets LogLocked with the holder's pid, until the holder dies", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      recordTransactions(path, 4096, 5)
      const child = yield* startProgram("commitRecorded.ts", [path])
      yield* child.until((lines) => lines.includes("done"))
      const holderOf = Effect.map(
        Effect.flip(openOn(NodeVfs.layer, { database: path })),
        (error) => error._tag === "LogLocked" ? error.holderPid : error._tag
      )
      assert.strictEqual(yield* holderOf, undefined, "no lease tells who it is")
      mkdirSync(`${path}.fsqlite`, { recursive: true })
      writeFileSync(LeaseFormat.leasePath(path), lease(child.pid))
      assert.strictEqual(yield* holderOf, child.pid)
      writeFileSync(LeaseFormat.leasePath(path), lease(child.pid).subarray(1))
      assert.strictEqual(yield* holderOf, undefined, "a damaged lease tells nothing, and the lock decides anyway")
      yield* child.kill
      const opened = yield* openOn(NodeVfs.layer, { database: path })
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(5n))
    }))

  it.effect("SWAL-10 the SHARED range and byte 120 of -shm are held for reading, PENDING for writing", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make())
      const opened = yield* openMemory(disk, { create: { pageSize } })
      const attempt = (path: string, mode: "shared" | "exclusive", start: number, length = 1) =>
        Effect.gen(function*() {
          const locks = yield* FileLock
          return yield* Effect.match(Effect.scoped(locks.acquire(path, { mode, range: { start, length } })), {
            onFailure: (error) => error._tag,
            onSuccess: () => "taken"
          })
        }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
      const attempts = Effect.all([
        attempt(memoryPath, "shared", 0x40000000),
        attempt(memoryPath, "exclusive", 0x40000002),
        attempt(memoryPath, "exclusive", 0x400001ff),
        attempt(memoryPath, "shared", 0x40000002, 510),
        attempt(`${memoryPath}-shm`, "exclusive", 120),
        attempt(`${memoryPath}-shm`, "shared", 120)
      ])
      assert.deepStrictEqual(yield* attempts, [
        "RangeLocked",
        "RangeLocked",
        "RangeLocked",
        "taken",
        "RangeLocked",
        "taken"
      ])
      yield* opened.close
      assert.deepStrictEqual(yield* attempts, Array.from({ length: 6 }, () => "taken"))
    }))

  it.effect("SWAL-10 LOG-10 two layers of one process exclude each other too", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make())
      const first = yield* openMemory(disk, { create: { pageSize } })
      disk.writeFile(LeaseFormat.leasePath(memoryPath), lease(4711))
      const files = disk.files
      const error = yield* Effect.flip(openMemory(disk))
      assert.deepStrictEqual([error._tag, "holderPid" in error ? error.holderPid : undefined], ["LogLocked", 4711])
      assert.deepStrictEqual(disk.files, files)
      yield* first.close
      yield* openMemory(disk)
    }))
})

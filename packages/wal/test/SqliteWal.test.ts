import { assert, describe, it } from "@effect/vitest"
import { PageSize, pageSizes, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import type { MemoryDisk as Disk } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import fc from "fast-check"
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import type { LogReader } from "../src/CommitLog.ts"
import * as JournalFormat from "../src/JournalFormat.ts"
import type { CheckpointMode, SqliteWalOptions } from "../src/SqliteWal.ts"
import { walBasePath } from "../src/WalBaseFormat.ts"
import { startProgram, temporaryDirectory } from "./support/children.ts"
import { Ledger } from "./support/ledger.ts"
import { filledPage, page1, sameBytes } from "./support/pages.ts"
import { expectedRows, inspectWithSqlite, readRecorded, recordTransactions } from "./support/sqliteRecording.ts"
import { commit, memoryPath, openMemory, openOn, prepareDisk, readTip } from "./support/sqliteWal.ts"
import { buildDatabase, buildWal, buildWalBase, flipped, salts, twoOfThree } from "./support/walFiles.ts"

const pageSize = PageSize.make(512)
const create = { pageSize }
const walPath = `${memoryPath}-wal`
const basePath = walBasePath(memoryPath)

/** All bytes of a disk, to show that nothing has changed. */
const allBytes = (disk: Disk) =>
  disk.files.map((path) => [path, Buffer.from(disk.readFile(path) ?? []).toString("hex")])

const emptyDisk = () => prepareDisk(MemoryDisk.make({ async: false }))

describe("SqliteWal, beside stock SQLite", () => {
  it.live.each(pageSizes.map((size, n) => ({ size, between: ["passive", "nothing", "truncate"][n % 3] ?? "nothing" })))(
    "SWAL-01 a killed process leaves every acknowledged transaction to SQLite (pages of $size bytes)",
    ({ between, size }) =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const path = join(directory, "test.db")
        const count = 40
        recordTransactions(path, size, count)
        const child = yield* startProgram("commitRecorded.ts", [path, between])
        yield* child.until((lines) => lines.length >= 20)
        yield* child.kill
        const acknowledged = child.lines.filter((line) => line !== "done").length
        assert.isTrue(acknowledged >= 20)

        // First our own recovery, which changes no commit, then SQLite over the same files.
        const opened = yield* openOn(NodeVfs.layer, { database: path })
        const { commitSeq } = opened.log.published()
        yield* opened.close
        assert.isTrue(commitSeq >= BigInt(acknowledged), `${commitSeq} of ${acknowledged}`)
        const found = inspectWithSqlite(path)
        assert.deepStrictEqual(found.integrity, ["ok"])
        assert.deepStrictEqual(found.rows, expectedRows(Number(commitSeq)))
      })
  )

  it.live("SWAL-01 a copy of the files while they are open is what SQLite can open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      recordTransactions(path, 4096, 30)
      const opened = yield* openOn(NodeVfs.layer, { database: path, autoCheckpointFrames: 0 })
      let last = opened.log.published().commitSeq
      for (const [number, transaction] of readRecorded(path).entries()) {
        last = yield* commit(
          opened.log,
          () => ({ written: transaction.pages, databasePages: transaction.databasePages }),
          { lastSeq: () => last }
        )
        if (number % 10 === 6) yield* opened.wal.checkpoint(number % 20 === 6 ? "restart" : "passive")
        if (number % 5 !== 4) continue
        const copy = join(directory, `copy-${number}.db`)
        copyFileSync(path, copy)
        copyFileSync(`${path}-wal`, `${copy}-wal`)
        const found = inspectWithSqlite(copy)
        assert.deepStrictEqual(found.integrity, ["ok"])
        assert.deepStrictEqual(found.rows, expectedRows(number + 1))
      }
    }))

  it.live("SWAL-02 RC-01 RC-02 section 2.1: SQLite goes on where we stopped, and we where it stopped", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      recordTransactions(path, 4096, 12)
      const transactions = readRecorded(path)
      const commitNext = (opened: Effect.Success<ReturnType<typeof openOn>>, from: number, to: number) =>
        Effect.gen(function*() {
          let last = opened.log.published().commitSeq
          for (const transaction of transactions.slice(from, to)) {
            last = yield* commit(
              opened.log,
              () => ({ written: transaction.pages, databasePages: transaction.databasePages }),
              { lastSeq: () => last }
            )
          }
          return last
        })
      const first = yield* openOn(NodeVfs.layer, { database: path })
      assert.strictEqual(first.wal.startUp.tipSource, "no-wal-base")
      assert.strictEqual(yield* commitNext(first, 0, 12), toCommitSeq(12n))
      yield* first.close

      // SQLite checkpoints, deletes the WAL when it closes, and writes one of its own, left there by a crash.
      const sqlite = new DatabaseSync(path)
      sqlite.exec("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (1000, 'from SQLite')")
      sqlite.close()
      assert.isFalse(existsSync(`${path}-wal`))
      const crashed = join(directory, "crashed.db")
      const another = new DatabaseSync(path)
      another.exec("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES (1001, 'too')")
      for (const suffix of ["", "-wal"]) copyFileSync(`${path}${suffix}`, `${crashed}${suffix}`)
      another.close()

      const absent = yield* openOn(NodeVfs.layer, { database: path })
      assert.strictEqual(absent.wal.startUp.tipSource, "foreign")
      assert.strictEqual(absent.log.published().commitSeq, toCommitSeq(2n ** 32n))
      yield* absent.close

      const foreign = yield* openOn(NodeVfs.layer, { database: crashed })
      assert.strictEqual(foreign.wal.startUp.commits, 1)
      const tip = foreign.log.published().commitSeq
      const { databasePages, pages } = yield* readTip(foreign.log)
      // The row that only SQLite's WAL has is read through our index.
      assert.isTrue(Array.from(pages.values()).some((page) => Buffer.from(page).includes("too")))
      let last = tip
      last = yield* commit(foreign.log, () => ({
        written: new Map(Array.from(pages).filter(([page]) => page === databasePages)),
        databasePages
      }), { lastSeq: () => last })
      assert.strictEqual(last, toCommitSeq(tip + 1n))
      yield* foreign.close
      const found = inspectWithSqlite(crashed)
      assert.deepStrictEqual(found.integrity, ["ok"])
      assert.deepStrictEqual(found.rows.slice(-2), [[1000, "from SQLite"], [1001, "too"]])
    }))

  it.live("SWAL-09 a database of SQLite's in rollback mode is refused, converted when asked, and stays readable", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      const sqlite = new DatabaseSync(path)
      sqlite.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'kept')")
      sqlite.close()
      const before = readFileSync(path)
      const refused = yield* Effect.flip(openOn(NodeVfs.layer, { database: path }))
      assert.strictEqual(refused._tag, "NotWalMode")
      assert.deepStrictEqual(readdirSync(directory), ["test.db"])
      assert.isTrue(sameBytes(readFileSync(path), before))
      const opened = yield* openOn(NodeVfs.layer, { database: path, convert: true })
      const { databasePages, pages } = yield* readTip(opened.log)
      yield* commit(opened.log, () => ({ written: pages, databasePages }), {
        lastSeq: () => opened.log.published().commitSeq
      })
      yield* opened.close
      const found = inspectWithSqlite(path)
      assert.deepStrictEqual([found.integrity, found.rows], [["ok"], [[1, "kept"]]])
      const reopened = yield* openOn(NodeVfs.layer, { database: path })
      assert.isTrue(reopened.log.published().commitSeq > 1n)
    }))

  it.live("SWAL-09 a new database is one of SQLite's, with page 1 in the file before anything is committed", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const size of pageSizes) {
        const path = join(directory, `${size}.db`)
        const opened = yield* openOn(NodeVfs.layer, { database: path, create: { pageSize: PageSize.make(size) } })
        assert.strictEqual(statSync(path).size, size)
        yield* opened.close
        const sqlite = new DatabaseSync(path)
        assert.deepStrictEqual(sqlite.prepare("PRAGMA journal_mode").all().map((row) => row["journal_mode"]), ["wal"])
        assert.deepStrictEqual(sqlite.prepare("PRAGMA page_size").all().map((row) => row["page_size"]), [size])
        sqlite.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'x')")
        sqlite.close()
        assert.deepStrictEqual(inspectWithSqlite(path), { integrity: ["ok"], rows: [[1, "x"]] })
      }
    }))
})

describe("SqliteWal, opening", () => {
  /** What must be refused, by the name of its error, with the files that lead to it. */
  const wal = buildWal(twoOfThree)
  const journal = (() => {
    const bytes = new Uint8Array(JournalFormat.journalHeaderBytes)
    bytes.set([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7])
    bytes[11] = 1
    return bytes
  })()
  const rollbackMode = () => {
    const bytes = buildDatabase(2)
    bytes[18] = 1
    bytes[19] = 1
    return bytes
  }
  const refusals: ReadonlyArray<{
    readonly scenario: string
    readonly tag: string
    readonly files: Readonly<Record<string, Uint8Array>>
    readonly options?: Partial<SqliteWalOptions>
  }> = [
    { scenario: "RC-03 damage", tag: "WalDamaged", files: { "": buildDatabase(4), "-wal": flipped(wal, 32 + 100) } },
    {
      scenario: "RC-04 a lost header",
      tag: "WalHeaderLost",
      files: { "": buildDatabase(4), "-wal": flipped(wal, 3), ".fsqlite/wal-base": buildWalBase(7n) }
    },
    {
      scenario: "RC-05 another page size",
      tag: "PageSizeMismatch",
      files: { "": buildDatabase(2, PageSize.make(1024)), "-wal": wal }
    },
    { scenario: "RC-24 a hot journal", tag: "HotJournal", files: { "": buildDatabase(2), "-journal": journal } },
    {
      scenario: "RC-24 a hot journal beside an empty file that is to be made a database",
      tag: "HotJournal",
      files: { "": new Uint8Array(0), "-journal": journal },
      options: { create }
    },
    {
      scenario: "RC-24 a hot journal beside a database that is to be made",
      tag: "HotJournal",
      files: { "-journal": journal },
      options: { create }
    },
    { scenario: "SWAL-09 rollback mode", tag: "NotWalMode", files: { "": rollbackMode() } },
    { scenario: "no database", tag: "NotADatabase", files: { "": new Uint8Array(512).fill(7) }, options: { create } },
    {
      scenario: "section 2.1 a damaged base",
      tag: "WalBaseDamaged",
      files: { "": buildDatabase(4), "-wal": wal, ".fsqlite/wal-base": flipped(buildWalBase(7n), 30) }
    },
    {
      scenario: "SWAL-09 a log that lacks pages beside an empty file",
      tag: "DatabasePagesLost",
      files: { "": new Uint8Array(0), "-wal": buildWal([{ pages: [1, 3], databasePages: 3 }]) }
    },
    {
      scenario: "SWAL-09 a log without its database, whose page size is another one",
      tag: "PageSizeMismatch",
      files: { "": new Uint8Array(0), "-wal": buildWal([]) },
      options: { create: { pageSize: PageSize.make(1024) } }
    },
    {
      scenario: "SWAL-09 a log without its database",
      tag: "VfsError",
      files: { "-wal": wal },
      options: { create }
    }
  ]
  it.effect.each(refusals)(
    "$scenario is refused with $tag, and no byte is changed",
    ({ files, options, tag }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        for (const [suffix, bytes] of Object.entries(files)) disk.writeFile(`${memoryPath}${suffix}`, bytes)
        disk.writeFile(`${memoryPath}.fsqlite/.tmp-wal-base-00000000`, new Uint8Array(3))
        const before = allBytes(disk)
        const trace = disk.record()
        const exit = yield* Effect.exit(openMemory(disk, { ...options }))
        trace.stop()
        const error = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
        assert.strictEqual(error?._tag === "Fail" ? error.error._tag : String(exit), tag)
        assert.deepStrictEqual(trace.steps.map((step) => step.kind), [])
        assert.deepStrictEqual(allBytes(disk), before)
      })
  )

  it.effect("RC-03 acceptLoss keeps the prefix, and what stands behind it does not come back", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const commits = [...twoOfThree, { pages: [2], databasePages: 4 }, { pages: [3], databasePages: 4 }]
      disk.writeFile(memoryPath, buildDatabase(4))
      disk.writeFile(walPath, flipped(buildWal(commits), 32 + 3 * 536 + 100))
      disk.writeFile(basePath, buildWalBase(7n))
      const accepted = yield* openMemory(disk, { acceptLoss: true })
      assert.strictEqual(accepted.log.published().commitSeq, toCommitSeq(8n))
      const { databasePages } = accepted.log.published()
      yield* commit(accepted.log, () => ({ written: new Map([[2, filledPage(512, 2, 9)]]), databasePages }), {
        lastSeq: () => toCommitSeq(8n)
      })
      yield* accepted.close
      const reopened = yield* openMemory(disk)
      assert.strictEqual(reopened.log.published().commitSeq, toCommitSeq(9n))
      assert.isTrue(sameBytes(
        (yield* readTip(reopened.log)).pages.get(2) ?? new Uint8Array(0),
        filledPage(512, 2, 9)
      ))
      assert.strictEqual(reopened.wal.startUp.tornTailBytes, 0)
    }))

  it.effect("RC-04 section 2.1 acceptLoss gives a log without a header up, and its sequences are never used again", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      disk.writeFile(memoryPath, buildDatabase(4))
      disk.writeFile(walPath, flipped(buildWal(twoOfThree), 3))
      disk.writeFile(basePath, buildWalBase(7n))
      const tip = toCommitSeq(7n + 2n ** 32n)
      const ledger = yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openMemory(disk, { acceptLoss: true })
        assert.deepStrictEqual([opened.wal.startUp.tipSource, opened.log.published().commitSeq], ["foreign", tip])
        const lost = new Ledger(pageSize, tip, yield* readTip(opened.log))
        yield* lost.commit(opened, { pages: [2], databasePages: 4 })
        return lost
      }))
      const reopened = yield* openMemory(disk)
      assert.deepStrictEqual(
        [reopened.wal.startUp.commits, reopened.log.published().commitSeq],
        [1, toCommitSeq(tip + 1n)]
      )
      yield* ledger.checkTip(reopened, "the frames of the lost log do not come back")
    }))

  it.effect("SWAL-04 an uncommitted tail is overwritten, a tail of an older generation is not taken for frames", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const tail = buildWal([...twoOfThree, { pages: [2, 3], databasePages: 0 }])
      disk.writeFile(memoryPath, buildDatabase(4))
      disk.writeFile(walPath, tail)
      const first = yield* openMemory(disk, { autoCheckpointFrames: 0 })
      assert.strictEqual(first.wal.startUp.tornTailBytes, 2 * 536)
      assert.strictEqual(first.wal.frames().inLog, 6)
      const ledger = new Ledger(pageSize, toCommitSeq(2n), yield* readTip(first.log))
      yield* ledger.commit(first, { pages: [3], databasePages: 4 })
      // A generation of one frame before the older frames, which are as long as it was.
      yield* first.wal.checkpoint("restart")
      yield* ledger.commit(first, { pages: [2], databasePages: 4 })
      yield* first.close
      assert.isTrue((disk.readFile(walPath)?.length ?? 0) >= tail.length)
      const second = yield* openMemory(disk)
      assert.deepStrictEqual(
        [second.wal.startUp.validFrames, second.wal.startUp.commits, second.wal.startUp.tornTailBytes],
        [2, 1, 0]
      )
      assert.strictEqual(second.log.published().commitSeq, toCommitSeq(4n))
      yield* ledger.checkTip(second, "after the restart")
    }))

  it.effect("SWAL-05 a generation has the next checkpoint sequence and first salt, and another second one", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      // One that SQLite has written on a big-endian machine: we go on with it, and write our own way afterwards.
      disk.writeFile(memoryPath, buildDatabase(4))
      disk.writeFile(walPath, buildWal(twoOfThree, { words: "bigEndian" }))
      const opened = yield* openMemory(disk, { autoCheckpointFrames: 0 })
      const ledger = new Ledger(pageSize, toCommitSeq(2n), yield* readTip(opened.log))
      yield* ledger.commit(opened, { pages: [3], databasePages: 4 })
      const header = () => new DataView((disk.readFile(walPath) ?? new Uint8Array(32)).buffer)
      assert.strictEqual(header().getUint32(0), 0x377f0683)
      yield* opened.wal.checkpoint("restart")
      assert.strictEqual(header().getUint32(12), 3, "the header is written with the first commit")
      yield* ledger.commit(opened, { pages: [3], databasePages: 4 })
      assert.strictEqual(header().getUint32(0), 0x377f0682)
      assert.deepStrictEqual([header().getUint32(12), header().getUint32(16)], [4, salts.salt1 + 1])
      assert.notStrictEqual(header().getUint32(20), salts.salt2)
      yield* opened.close
      const reopened = yield* openMemory(disk)
      yield* ledger.checkTip(reopened, "after the reopening")
      assert.strictEqual(reopened.log.published().commitSeq, toCommitSeq(4n))
    }))

  it.effect("SWAL-06 a frame is one page, and frames are counted", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openMemory(disk, { create, maxFrames: 5, autoCheckpointFrames: 0 })
      const ledger = new Ledger(pageSize)
      yield* ledger.commit(opened, { pages: [2], databasePages: 3 })
      assert.strictEqual(opened.wal.frames().inLog, 3)
      assert.isUndefined(opened.log.refuse(2))
      const refusal = opened.log.refuse(3)
      assert.deepStrictEqual([refusal?._tag, refusal?.limit], ["Exhausted", 5n])
      yield* opened.wal.checkpoint("restart")
      assert.isUndefined(opened.log.refuse(5), "a new generation counts from the beginning")
      const exit = yield* Effect.exit(commit(
        opened.log,
        () => ({ written: new Map([[1, page1(pageSize, 1, 1).subarray(1)]]), databasePages: 1 }),
        { lastSeq: () => ledger.lastSeq }
      ))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(opened.log.ended()?._tag, "WalPoisoned")
    }))

  it.effect("SWAL-09 an empty file beside a log is filled, page 1 first, whatever a power loss does to it", () =>
    Effect.gen(function*() {
      const images = buildWal([{ pages: [1, 2, 3], databasePages: 3 }])
      const disk = emptyDisk()
      disk.writeFile(memoryPath, new Uint8Array(0))
      disk.writeFile(walPath, images)
      const before = yield* Effect.scoped(Effect.gen(function*() {
        const maker = emptyDisk()
        const opened = yield* openMemory(maker, { create, autoCheckpointFrames: 0, preallocateBytes: 0 })
        const ledger = new Ledger(pageSize)
        yield* ledger.commit(opened, { pages: [2, 3], databasePages: 3 })
        return { ledger, wal: maker.readFile(walPath) ?? images }
      }))
      disk.writeFile(walPath, before.wal)
      const trace = disk.record()
      yield* Effect.scoped(openMemory(disk))
      trace.stop()
      const written = trace.steps.find((step) => step.kind === "write" && step.path === memoryPath)
      assert.strictEqual(written?.kind === "write" ? written.bytes.length : 0, pageSize)
      let states = 0
      for (const state of trace.crashStates({ perStep: 8 })) {
        states++
        const opened = yield* openMemory(state.disk)
        const reader = opened.log.openReader()
        assert.isUndefined(
          new Ledger(pageSize, reader.high, before.ledger.version(toCommitSeq(1n))).differenceOf(reader),
          state.label
        )
        reader.release()
        yield* opened.close
      }
      assert.isTrue(states > 40, `${states}`)
    }))

  it.effect("section 2.1 the tip goes on over clean reopening, every checkpoint, a deleted log and a foreign one", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      let ledger = new Ledger(pageSize)
      const reopen = (source: string, tip: bigint, options: Partial<SqliteWalOptions> = {}) =>
        Effect.scoped(Effect.gen(function*() {
          const opened = yield* openMemory(disk, { create, autoCheckpointFrames: 0, ...options })
          assert.deepStrictEqual([opened.wal.startUp.tipSource, opened.log.published().commitSeq], [source, tip])
          if (tip !== ledger.lastSeq) ledger = new Ledger(pageSize, toCommitSeq(tip), yield* readTip(opened.log))
          yield* ledger.checkTip(opened, source)
          return opened
        }))
      const step = (
        source: string,
        tip: bigint,
        modes: ReadonlyArray<CheckpointMode | "commit">,
        options: Partial<SqliteWalOptions> = {}
      ) =>
        Effect.scoped(Effect.gen(function*() {
          yield* reopen(source, tip, options)
          const opened = yield* openMemory(disk, { create, autoCheckpointFrames: 0, ...options })
          for (const mode of modes) {
            if (mode === "commit") yield* ledger.commit(opened, { pages: [2], databasePages: 3 })
            else yield* opened.wal.checkpoint(mode)
          }
        }))
      yield* step("no-wal-base", 0n, ["commit", "commit"])
      yield* step("wal-base", 2n, ["commit", "passive", "restart"])
      // The restart was forgotten with the process: the log still is what it was.
      yield* step("wal-base", 3n, ["restart", "commit", "commit", "truncate"])
      yield* step("sealed", 5n, [])
      yield* step("sealed", 5n, ["truncate"])
      yield* step("sealed", 5n, ["commit", "full"])
      yield* step("wal-base", 6n, ["truncate", "commit"])
      yield* step("wal-base", 7n, ["commit", "restart", "restart", "truncate", "truncate"])
      yield* step("sealed", 8n, ["commit"])

      // Somebody has removed a log with a commit in it.
      disk.writeFile(walPath, new Uint8Array(0))
      const foreign = 2n ** 32n
      const deleted = 8n + foreign
      yield* reopen("foreign", deleted)
      yield* step("foreign", deleted, ["commit"])
      yield* step("wal-base", deleted + 1n, ["commit"])
      // Somebody else has written one.
      disk.writeFile(walPath, buildWal([{ pages: [1, 2], databasePages: 2 }]))
      yield* reopen("foreign", deleted + foreign)
      yield* step("wal-base", deleted + foreign, ["commit", "truncate"])
      yield* step("sealed", deleted + foreign + 1n, [])
    }))

  it.effect("section 2.1 GC-01 a base that a killed process left unsynced is durable before commits build on it", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      disk.writeFile(memoryPath, buildDatabase(3))
      disk.writeFile(walPath, buildWal([{ pages: [1, 2, 3], databasePages: 3 }]))
      disk.writeFile(basePath, buildWalBase(7n, { salt1: 5, salt2: 5, previousSalt1: 4, previousSalt2: 4 }))
      const trace = disk.record()
      yield* Effect.scoped(openMemory(disk))
      trace.stop()
      for (let at = 0; at <= trace.steps.length; at++) {
        const killed = trace.diskAfter(at)
        const tip = yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openMemory(killed)
          const ledger = new Ledger(pageSize, opened.log.published().commitSeq, yield* readTip(opened.log))
          return yield* ledger.commit(opened, { pages: [2], databasePages: 3 })
        }))
        killed.crash("lost")
        const after = yield* Effect.scoped(openMemory(killed))
        assert.isTrue(after.log.published().commitSeq >= tip, `killed after step ${at}: ${tip}`)
      }
    }))

  it.effect("RC-19 RC-25 leftovers are swept, files of others are not", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      disk.writeFile(memoryPath, buildDatabase(2))
      const swept = [
        `${memoryPath}.fsqlite-tmp/txn-17-3.spill`,
        `${memoryPath}.fsqlite/.tmp-wal-base-0123abcd`,
        `/data/.tmp-test.db-wal-0123abcd`
      ]
      const kept = ["/data/.tmp-other.db-0123abcd", `${memoryPath}.fsqlite-tmp/notes.txt`]
      for (const path of [...swept, ...kept]) disk.writeFile(path, new Uint8Array(1))
      yield* Effect.scoped(openMemory(disk))
      assert.deepStrictEqual(disk.files.filter((path) => swept.includes(path)), [])
      assert.deepStrictEqual(disk.files.filter((path) => kept.includes(path)), kept)
    }))
})

describe("SqliteWal, reading", () => {
  const openSmall = Effect.gen(function*() {
    const disk = prepareDisk(MemoryDisk.make())
    const opened = yield* openMemory(disk, { create, autoCheckpointFrames: 0 })
    const ledger = new Ledger(pageSize)
    yield* ledger.commit(opened, { pages: [2, 3], databasePages: 3 })
    return { disk, opened, ledger }
  })

  it.effect("a read that is in flight while the log starts over is done again in the database file", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* openSmall
      const reader = opened.log.openReader()
      const hold = disk.hold({ operation: "read", path: walPath })
      const fiber = yield* Effect.forkChild(reader.read(toPageNumber(2)), { startImmediately: true })
      yield* hold.reached
      // The reader sees exactly the tip, so the log may start over, and its first frames hold other pages then.
      yield* opened.wal.checkpoint("restart")
      assert.strictEqual(opened.wal.frames().inLog, 0)
      yield* ledger.commit(opened, { pages: [2, 3], databasePages: 3 })
      yield* hold.release
      assert.isTrue(sameBytes(yield* Fiber.join(fiber), filledPage(512, 2, 2)))
      assert.isUndefined(ledger.differenceOf(reader), "and what is read synchronously is the same")
      assert.strictEqual(reader.versionOf(toPageNumber(2)), toCommitSeq(0n))
      reader.release()
    }))

  it.effect("PG-11 zeros beyond the end of the snapshot's database, DatabaseTruncated inside of it", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* openSmall
      yield* opened.wal.checkpoint("truncate")
      const reader = opened.log.openReader()
      assert.isTrue((yield* reader.read(toPageNumber(4))).every((byte) => byte === 0))
      assert.isTrue(reader.readSync(toPageNumber(4)).every((byte) => byte === 0))
      yield* ledger.commit(opened, { pages: [], databasePages: 2 })
      const shrunk = opened.log.openReader()
      assert.isTrue((yield* shrunk.read(toPageNumber(3))).every((byte) => byte === 0), "page 3 is cut off")
      assert.isTrue(sameBytes(yield* reader.read(toPageNumber(3)), filledPage(512, 3, 2)), "not for the older reader")
      shrunk.release()

      disk.writeFile(memoryPath, (disk.readFile(memoryPath) ?? new Uint8Array(0)).slice(0, 1024 + 100))
      const error = yield* Effect.flip(reader.read(toPageNumber(3)))
      assert.strictEqual(error._tag, "DatabaseTruncated")
      if (error._tag === "DatabaseTruncated") {
        assert.deepStrictEqual([error.path, error.page, error.offset], [memoryPath, toPageNumber(3), 1024])
      }
      assert.throws(() => reader.readSync(toPageNumber(3)), /page 3 should be at byte 1024/)
      reader.release()
    }))

  it.effect("CO-16 nothing is visible before it is durable, and it is before it is acknowledged", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* openSmall
      const hold = disk.hold({ operation: "syncData", path: walPath })
      ledger.onAcknowledged = (seq) => {
        assert.strictEqual(opened.log.published().commitSeq, seq)
      }
      const fiber = yield* Effect.forkChild(ledger.commit(opened, { pages: [2], databasePages: 3 }))
      yield* hold.reached
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(1n))
      const reader = opened.log.openReader()
      assert.isTrue(sameBytes(reader.readSync(toPageNumber(2)), filledPage(512, 2, 2)))
      yield* hold.release
      yield* Fiber.join(fiber)
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(2n))
      assert.isUndefined(ledger.differenceOf(reader), "the snapshot stays")
      reader.release()
    }))

  it.effect("CO-15 what was recovered stays what it was, whatever is committed afterwards", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* openSmall
      yield* ledger.commit(opened, { pages: [3], databasePages: 3 })
      yield* opened.close
      const reopened = yield* openMemory(disk, { autoCheckpointFrames: 0 })
      const recovered = () => new Map(reopened.log.recovered.pages())
      const expected = new Map([[1, 2n], [2, 1n], [3, 2n]])
      assert.deepStrictEqual<unknown>(recovered(), expected)
      yield* ledger.commit(reopened, { pages: [2], databasePages: 4 })
      assert.deepStrictEqual<unknown>(recovered(), expected)
      assert.deepStrictEqual(
        [reopened.log.recovered.base, reopened.log.recovered.tip],
        [toCommitSeq(0n), toCommitSeq(2n)]
      )
    }))

  /** One step of the model: what is done to the log, or by a reader. */
  type Step =
    | { readonly do: "commit"; readonly pages: ReadonlyArray<number>; readonly databasePages: number }
    | { readonly do: "burst"; readonly commits: number; readonly checkpoint: CheckpointMode }
    | { readonly do: "open" }
    | { readonly do: "release" | "read"; readonly which: number }
    | { readonly do: "checkpoint"; readonly mode: CheckpointMode }
    | { readonly do: "reopen" }
    | { readonly do: "crash"; readonly seed: number }

  const mode = fc.constantFrom<Array<CheckpointMode>>("passive", "full", "restart", "truncate")
  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant("commit" as const),
        pages: fc.array(fc.integer({ min: 2, max: 8 }), { maxLength: 4 }),
        databasePages: fc.integer({ min: 1, max: 8 })
      })
    },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant("burst" as const),
        commits: fc.integer({ min: 2, max: 6 }),
        checkpoint: mode
      })
    },
    { weight: 4, arbitrary: fc.constant({ do: "open" as const }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("release" as const), which: fc.nat(9) }) },
    { weight: 5, arbitrary: fc.record({ do: fc.constant("read" as const), which: fc.nat(9) }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant("checkpoint" as const), mode }) },
    { weight: 1, arbitrary: fc.constant({ do: "reopen" as const }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("crash" as const), seed: fc.nat(1000) }) }
  )

  const runModel = (steps: ReadonlyArray<Step>, autoCheckpointFrames: number) =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make({ async: { seed: steps.length, maxTurns: 2 } }))
      const options = { create, autoCheckpointFrames, restartFrames: 2 * autoCheckpointFrames, preallocateBytes: 600 }
      const ledger = new Ledger(pageSize)
      let opened = yield* openMemory(disk, options)
      const readers: Array<LogReader> = []
      const check = (reader: LogReader, label: string) =>
        Effect.gen(function*() {
          assert.isUndefined(ledger.differenceOf(reader), label)
          const version = ledger.version(reader.high)
          // Side by side, so that a checkpoint of the same moment meets them in flight.
          yield* Effect.forEach(version.pages, ([page, bytes]) =>
            Effect.map(reader.read(toPageNumber(page)), (found) => assert.isTrue(sameBytes(found, bytes), label)), {
            concurrency: "unbounded",
            discard: true
          })
        })
      const checkAll = (label: string) =>
        Effect.forEach(readers, (reader) => check(reader, `${label}, reader at ${reader.high}`), {
          concurrency: "unbounded",
          discard: true
        })
      const reopen = Effect.gen(function*() {
        readers.length = 0
        opened = yield* openMemory(disk, options)
        const { commitSeq } = opened.log.published()
        assert.isTrue(commitSeq >= ledger.acknowledged && commitSeq <= ledger.lastSeq, `tip ${commitSeq}`)
        ledger.rewindTo(commitSeq)
        yield* ledger.checkTip(opened, "after the recovery")
      })
      for (const [index, current] of steps.entries()) {
        const label = `step ${index} (${current.do})`
        switch (current.do) {
          case "commit":
            yield* ledger.commit(opened, current)
            break
          case "burst":
            yield* Effect.all([
              ...Array.from({ length: current.commits }, (_, n) =>
                ledger.commit(opened, { pages: [2 + n % 3], databasePages: 2 + (n + index) % 6 })),
              opened.wal.checkpoint(current.checkpoint, { busyTimeout: 0 }),
              checkAll(label)
            ], { concurrency: "unbounded", discard: true })
            break
          case "open":
            readers.push(opened.log.openReader())
            break
          case "release": {
            const [reader] = readers.splice(current.which % Math.max(1, readers.length), 1)
            reader?.release()
            break
          }
          case "read": {
            const reader = readers[current.which % Math.max(1, readers.length)]
            if (reader !== undefined) {
              yield* check(reader, label)
            }
            break
          }
          case "checkpoint": {
            const report = yield* opened.wal.checkpoint(current.mode, { busyTimeout: 0 })
            const isBehind = readers.some((reader) =>
              reader.high < ledger.lastSeq
            )
            assert.strictEqual(report.blocked, current.mode !== "passive" && isBehind, label)
            if (!isBehind && current.mode !== "passive") {
              assert.strictEqual(report.framesCopied, report.framesBefore, label)
              if (current.mode !== "full") assert.strictEqual(opened.wal.frames().inLog, 0, label)
              if (current.mode === "truncate") assert.strictEqual(disk.readFile(walPath)?.length, 0, label)
            }
            break
          }
          case "reopen":
            yield* opened.close
            yield* reopen
            break
          case "crash":
            disk.crash(current.seed)
            yield* reopen
            break
        }
        yield* checkAll(label)
      }
      yield* opened.close
    })

  it.live("SWAL-07 PG-03 snapshots keep what they see, whatever goes on (model)", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.array(step, { minLength: 10, maxLength: 60 }),
          fc.constantFrom(0, 6),
          (steps, autoCheckpointFrames) =>
            Effect.runPromise(
              runModel(steps, autoCheckpointFrames).pipe(
                Effect.scoped,
                // A power loss in the middle of an automatic checkpoint is told in the log.
                Effect.provideService(References.MinimumLogLevel, "None")
              )
            )
        ),
        { numRuns: 250 }
      )
    ))
})

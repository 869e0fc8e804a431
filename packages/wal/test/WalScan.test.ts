import { assert, describe, it } from "@effect/vitest"
import { PageSize } from "@tidemark/core/Scalars"
import { Effect, Result } from "effect"
import fc from "fast-check"
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import {
  chainFromHeader,
  type ChecksumWords,
  decodeHeader,
  encodeHeader,
  frameBytes,
  frameHeaderBytes,
  frameOffset,
  readFrameHeader,
  type WalHeader,
  walHeaderBytes,
  writeFrame
} from "../src/SqliteWalFormat.ts"
import { FrameScanner, type WalScan } from "../src/WalScan.ts"
import { buildWal, concat, flipped, pageSize, salts, slotBytes, twoOfThree } from "./support/walFiles.ts"

const headerOf = (bytes: Uint8Array): WalHeader => {
  const decoded = decodeHeader(bytes)
  if (Result.isFailure(decoded)) throw decoded.failure
  return decoded.success
}

/** Scans a WAL in memory, handing over `slots` whole slots at a time. */
const scan = (bytes: Uint8Array, slots = 1000): WalScan => {
  const header = headerOf(bytes)
  const scanner = new FrameScanner(header, chainFromHeader(bytes))
  const step = slots * frameBytes(header.pageSize)
  for (let at = walHeaderBytes; at < bytes.length; at += step) scanner.take(bytes.subarray(at, at + step))
  return scanner.result()
}

const pagesOf = ({ framePages }: WalScan) => Array.from(framePages)

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-scan-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

const openSqlite = (file: string) =>
  Effect.acquireRelease(Effect.sync(() => new DatabaseSync(file)), (sqlite) => Effect.sync(() => sqlite.close()))

const copyDatabase = (from: string, to: string) => {
  copyFileSync(from, to)
  copyFileSync(`${from}-wal`, `${to}-wal`)
}

/** What SQLite makes of a database with a WAL: frames it counts in it, pages, and the file after its checkpoint. */
const asSqliteSees = (file: string) =>
  Effect.scoped(Effect.map(openSqlite(file), (sqlite) => {
    const one = (sql: string) => sqlite.prepare(sql).get() ?? {}
    const rows = sqlite.prepare("SELECT count(*) AS n, sum(length(b)) AS bytes, sum(a) AS a FROM t").get()
    assert.strictEqual(one("PRAGMA integrity_check")["integrity_check"], "ok")
    const pages = one("PRAGMA page_count")["page_count"]
    const { checkpointed, log } = one("PRAGMA wal_checkpoint(PASSIVE)")
    return { rows, pages, frames: log, checkpointed, image: readFileSync(file) }
  }))

/** The database file with the last image of each page laid over it. */
const overlaid = (database: Uint8Array, wal: Uint8Array, found: WalScan): Uint8Array => {
  const size = headerOf(wal).pageSize
  const image = new Uint8Array((found.databasePages ?? 0) * size)
  image.set(database.subarray(0, image.length))
  found.framePages.forEach((page, index) => {
    const at = frameOffset(index, size) + frameHeaderBytes
    if (page <= (found.databasePages ?? 0)) image.set(wal.subarray(at, at + size), (page - 1) * size)
  })
  return image
}

/** Makes a database whose transactions are in its WAL, as a crash of SQLite leaves it. */
const crashedSqlite = (directory: string, size: number) =>
  Effect.scoped(Effect.map(openSqlite(join(directory, "live.db")), (sqlite) => {
    sqlite.exec(`PRAGMA page_size=${size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0`)
    sqlite.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    for (let k = 1; k <= 12; k++) {
      sqlite.exec(
        `BEGIN; INSERT INTO t VALUES (${k}, zeroblob(${k * 700})); UPDATE t SET b = zeroblob(length(b) + 1); COMMIT`
      )
    }
    copyDatabase(join(directory, "live.db"), join(directory, "copy.db"))
    return join(directory, "copy.db")
  }))

/** The same frames, written anew by our encoder with checksum words of the given order. */
const reencoded = (wal: Uint8Array, found: WalScan, words: ChecksumWords): Uint8Array => {
  const header = { ...headerOf(wal), checksumWords: words }
  const bytes = new Uint8Array(found.validBytes)
  bytes.set(encodeHeader(header))
  const source = new DataView(wal.buffer, wal.byteOffset, wal.byteLength)
  const chain = chainFromHeader(bytes)
  for (let index = 0; index < found.validFrames; index++) {
    const offset = frameOffset(index, header.pageSize)
    const page = wal.subarray(offset + frameHeaderBytes, offset + frameBytes(header.pageSize))
    const { databasePages, pageNumber } = readFrameHeader(source, offset)
    writeFrame(bytes, new DataView(bytes.buffer), offset, { pageNumber, databasePages, page }, {
      salt1: header.salt1,
      salt2: header.salt2,
      words
    }, chain)
  }
  return bytes
}

describe("WalScan", () => {
  for (const size of [512, 4096, 65536]) {
    for (const words of ["littleEndian", "bigEndian"] as const) {
      it.effect(`SWAL-02 SQLite and we read the same from a WAL of ${size}-byte pages, ${words} words`, () =>
        Effect.gen(function*() {
          const file = yield* crashedSqlite(yield* temporaryDirectory, size)
          const written = readFileSync(`${file}-wal`)
          const wal = words === "littleEndian" ? written : reencoded(written, scan(written), words)
          writeFileSync(`${file}-wal`, wal)
          assert.strictEqual(headerOf(wal).checksumWords, words)
          const found = scan(wal)
          const image = overlaid(readFileSync(file), wal, found)
          const seen = yield* asSqliteSees(file)
          assert.strictEqual(found.validFrames, seen.frames)
          assert.strictEqual(seen.checkpointed, seen.frames)
          assert.strictEqual(found.databasePages, seen.pages)
          assert.strictEqual(found.commits, 13)
          assert.strictEqual(found.tornTailBytes, 0)
          assert.isTrue(seen.image.equals(image), "every page is the same")
          assert.deepStrictEqual({ ...seen.rows }, { n: 12, bytes: 700 * 78 + 78, a: 78 })
        }))
    }
  }

  it.effect("SWAL-02 SWAL-04 where SQLite has started its log over, we stop where it stops", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const live = join(directory, "live.db")
      const file = join(directory, "copy.db")
      yield* Effect.scoped(Effect.map(openSqlite(live), (sqlite) => {
        sqlite.exec("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        for (let k = 1; k <= 40; k++) sqlite.exec(`INSERT INTO t VALUES (${k}, zeroblob(3000))`)
        sqlite.exec("PRAGMA wal_checkpoint(RESTART)")
        sqlite.exec("INSERT INTO t VALUES (41, 'after the reset'); INSERT INTO t VALUES (42, 'and again')")
        copyDatabase(live, file)
      }))
      const wal = readFileSync(`${file}-wal`)
      const found = scan(wal)
      const seen = yield* asSqliteSees(file)
      assert.strictEqual(found.commits, 2)
      assert.strictEqual(found.validFrames, seen.frames)
      assert.isAbove(wal.length, found.validBytes + 20 * 4120, "frames of the older generation are behind them")
      assert.strictEqual(found.tornTailBytes, 0)
      assert.isUndefined(found.damage)
    }))

  it("SWAL-03 two transactions of three frames cut at any byte give 0, 3 or 6 valid frames", () => {
    const wal = buildWal(twoOfThree)
    for (let cut = walHeaderBytes; cut <= wal.length; cut++) {
      const found = scan(wal.subarray(0, cut))
      const frames = Math.floor((cut - walHeaderBytes) / slotBytes)
      const valid = frames - frames % 3
      const context = `cut at ${cut}`
      assert.strictEqual(found.validFrames, valid, context)
      assert.strictEqual(found.commits, valid / 3, context)
      assert.strictEqual(found.databasePages, [undefined, 3, 4][valid / 3], context)
      assert.deepStrictEqual(pagesOf(found), [1, 2, 3, 2, 3, 4].slice(0, valid), context)
      assert.deepStrictEqual(Array.from(found.frameCommit), [1, 1, 1, 2, 2, 2].slice(0, valid), context)
      assert.isUndefined(found.damage, context)
      // A cut slot counts as tail unless it holds nothing but zeros: page number 1 starts with three of them.
      const rest = wal.subarray(frameOffset(frames, pageSize), cut)
      const tail = rest.some((byte) => byte !== 0) ? cut - found.validBytes : (frames % 3) * slotBytes
      assert.strictEqual(found.tornTailBytes, tail, context)
    }
  })

  it("SWAL-03 RC-03 a flipped byte in frames 0-2 gives 0, in 3-5 gives 3; with a commit behind it, it is damage", () => {
    const wal = buildWal(twoOfThree)
    for (let offset = walHeaderBytes; offset < wal.length; offset++) {
      const frame = Math.floor((offset - walHeaderBytes) / slotBytes)
      const found = scan(flipped(wal, offset, 0x10))
      const context = `byte ${offset}, in frame ${frame}`
      const valid = frame < 3 ? 0 : 3
      assert.strictEqual(found.validFrames, valid, context)
      // Only the last frame of all has no frame behind it that could chain: there the flip is a torn end.
      if (frame === 5) assert.isUndefined(found.damage, context)
      else {
        assert.deepStrictEqual(found.damage, {
          frame,
          offset: frameOffset(frame, pageSize),
          lostFrames: 6 - valid,
          lostCommits: frame < 2 ? 2 : 1,
          lostEnd: wal.length
        }, context)
      }
      const isSaltOfLast = frame === 5 && [8, 9, 10, 11, 12, 13, 14, 15].includes(offset - frameOffset(5, pageSize))
      assert.strictEqual(
        found.tornTailBytes,
        wal.length - found.validBytes - (isSaltOfLast ? slotBytes : 0),
        context
      )
    }
  })

  it("SWAL-03 after recovery to 3, appending 2 gives 5", () => {
    const cut = buildWal(twoOfThree).subarray(0, frameOffset(5, pageSize) + 100)
    const { chain, validBytes, validFrames } = scan(cut)
    assert.strictEqual(validFrames, 3)
    const bytes = concat(cut.subarray(0, validBytes), new Uint8Array(2 * slotBytes))
    const view = new DataView(bytes.buffer)
    for (const index of [3, 4]) {
      writeFrame(
        bytes,
        view,
        frameOffset(index, pageSize),
        {
          pageNumber: index,
          databasePages: index === 4 ? 4 : 0,
          page: new Uint8Array(512).fill(index)
        },
        { ...salts, words: "littleEndian" },
        chain
      )
    }
    const found = scan(bytes)
    assert.deepStrictEqual(pagesOf(found), [1, 2, 3, 3, 4])
    assert.deepStrictEqual(Array.from(found.frameCommit), [1, 1, 1, 2, 2])
    // The old tail, longer than what was written over it, is not taken for frames.
    const over = cut.slice()
    over.set(bytes)
    assert.strictEqual(scan(over).validFrames, 5)
  })

  it("SWAL-04 an uncommitted tail is no part of the log", () => {
    const found = scan(buildWal([...twoOfThree, { pages: [9, 10], databasePages: 0 }]))
    assert.strictEqual(found.validFrames, 6)
    assert.strictEqual(found.tornTailBytes, 2 * slotBytes)
    assert.deepStrictEqual(found.chain, scan(buildWal(twoOfThree)).chain)
    assert.isUndefined(found.damage)
  })

  it("SWAL-04 a tail of an older generation is neither frames nor a torn tail", () => {
    const older = buildWal([...twoOfThree, ...twoOfThree], { salt1: salts.salt1 - 1, salt2: 99 })
    for (const current of [[], twoOfThree.slice(0, 1), twoOfThree]) {
      const wal = older.slice()
      wal.set(buildWal(current))
      const found = scan(wal)
      assert.strictEqual(found.validFrames, current.length * 3)
      assert.strictEqual(found.tornTailBytes, 0)
      assert.isUndefined(found.damage)
    }
  })

  it("SWAL-04 a torn batch over an older generation is a tail up to its last slot", () => {
    const wal = buildWal([...twoOfThree, ...twoOfThree], { salt1: salts.salt1 - 1, salt2: 99 }).slice()
    const current = buildWal([...twoOfThree, { pages: [5, 6], databasePages: 0 }])
    wal.set(current.subarray(0, frameOffset(6, pageSize)))
    // The slot in between did not reach the disk.
    wal.set(current.subarray(frameOffset(7, pageSize)), frameOffset(7, pageSize))
    const found = scan(wal)
    assert.strictEqual(found.validFrames, 6)
    assert.strictEqual(found.tornTailBytes, 2 * slotBytes)
  })

  it("zeros that are filled in ahead are no tail, whatever their length", () => {
    const wal = buildWal(twoOfThree)
    for (const zeros of [1, 24, slotBytes - 1, slotBytes, 3 * slotBytes + 7]) {
      const found = scan(concat(wal, new Uint8Array(zeros)))
      assert.strictEqual(found.validFrames, 6)
      assert.strictEqual(found.tornTailBytes, 0, `${zeros}`)
    }
    const dirty = concat(wal, new Uint8Array(2 * slotBytes))
    dirty[wal.length + slotBytes + 300] = 1
    assert.strictEqual(scan(dirty).tornTailBytes, 2 * slotBytes, "a page whose frame header was lost")
  })

  it("RC-03 damage reaches over several commits, and ends where the chain ends", () => {
    const wal = buildWal([...twoOfThree, ...twoOfThree, ...twoOfThree])
    const once = flipped(wal, frameOffset(4, pageSize) + 200)
    assert.deepStrictEqual(scan(once).damage, {
      frame: 4,
      offset: frameOffset(4, pageSize),
      lostFrames: 15,
      lostCommits: 5,
      lostEnd: wal.length
    })
    const damage = scan(flipped(once, frameOffset(10, pageSize) + 200)).damage
    assert.deepStrictEqual([damage?.frame, damage?.lostCommits, damage?.lostFrames], [4, 2, 6])
    // The next slot has to continue the chain, not a later one that would have been the next.
    const frames = Array.from(
      { length: 6 },
      (_, index) => once.subarray(frameOffset(index, pageSize), frameOffset(index + 1, pageSize))
    )
    const junk = new Uint8Array(slotBytes).fill(0x5a)
    assert.isUndefined(
      scan(concat(once.subarray(0, frameOffset(5, pageSize)), junk, ...frames.slice(5))).damage
    )
    // The chain breaks before any commit frame: nothing shows that this was ever whole.
    assert.isUndefined(scan(flipped(once, frameOffset(5, pageSize) + 200)).damage)
  })

  it("what a scan finds does not depend on how it is cut into chunks", () => {
    const commit = fc.record({
      pages: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }),
      databasePages: fc.integer({ min: 0, max: 9 })
    })
    fc.assert(fc.property(
      fc.array(commit, { maxLength: 6 }),
      fc.constantFrom<ChecksumWords>("littleEndian", "bigEndian"),
      fc.nat(),
      fc.nat(),
      fc.integer({ min: 1, max: 5 }),
      (commits, words, cutAt, flipAt, slots) => {
        const whole = buildWal(commits, { words, pageSize: PageSize.make(512) })
        const cut = whole.slice(0, walHeaderBytes + cutAt % (whole.length - walHeaderBytes + 1))
        const bytes = cut.length > walHeaderBytes
          ? flipped(cut, walHeaderBytes + flipAt % (cut.length - walHeaderBytes))
          : cut
        const found = scan(bytes)
        assert.deepStrictEqual(scan(bytes, slots), found)
        // A prefix of what was written, ending on a commit.
        const written = commits.flatMap(({ databasePages, pages }) =>
          pages.map((page, index) => ({ page, end: index === pages.length - 1 && databasePages !== 0 }))
        )
        assert.deepStrictEqual(pagesOf(found), written.slice(0, found.validFrames).map(({ page }) => page))
        if (found.validFrames > 0) assert.isTrue(written[found.validFrames - 1]?.end)
      }
    ))
  })

  it("random bytes behind a valid header are no frames and no defect", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 3 * slotBytes }), (bytes) => {
      assert.strictEqual(scan(concat(buildWal([]), bytes)).validFrames, 0)
    }))
  })
})

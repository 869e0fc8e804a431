import { assert, describe, it } from "@effect/vitest"
import { toPageNumber } from "@tidemark/core/Scalars"
import { Effect } from "effect"
import { readFileSync, writeFileSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"
import * as Bank from "../src/demo/Bank.ts"
import * as LeafRows from "../src/demo/LeafRows.ts"
import { lostInRecovery } from "../src/demo/Verification.ts"
import { decodeAnswer, encodeAnswer, LineReader, type WriterAnswer } from "../src/demo/WriterProtocol.ts"
import { temporaryDirectory } from "./support/program.ts"

describe("LeafRows", () => {
  it.effect("rewrites a text and adds to an integer so that SQLite reads them and finds the page whole", () =>
    Effect.gen(function*() {
      const path = `${yield* temporaryDirectory}/rows.db`
      const made = new DatabaseSync(path)
      made.exec("PRAGMA page_size = 4096; CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT, value INTEGER, x BLOB)")
      for (let id = 1; id <= 200; id += 3) {
        made.exec(`INSERT INTO t VALUES (${id * 50}, '${Bank.emptyToken}', ${Bank.initialValue}, zeroblob(${id % 7}))`)
      }
      made.close()
      const bytes = new Uint8Array(readFileSync(path))
      const page = bytes.subarray(4096, 2 * 4096)
      const tokens = LeafRows.cellsOf(page, 1)
      const values = LeafRows.cellsOf(page, 2)
      assert.lengthOf(tokens, 67)
      const [token] = tokens
      const value = values[66]
      assert(token !== undefined && value !== undefined)
      assert.strictEqual(LeafRows.readText(page, token), Bank.emptyToken)
      LeafRows.writeText(page, token, "txn-00000007")
      LeafRows.addTo(page, value, 2 ** 32 + 5)
      LeafRows.addTo(page, value, -1)
      assert.throws(() => LeafRows.writeText(page, token, "txn-7"))
      assert.throws(() => LeafRows.addTo(page, value, -2 * Bank.initialValue))
      assert.throws(() => LeafRows.addTo(page, token, 1))
      writeFileSync(path, bytes)
      const database = new DatabaseSync(path)
      const rows = database.prepare("SELECT token, value FROM t ORDER BY id").all()
      assert.strictEqual(rows[0]?.["token"], "txn-00000007")
      assert.strictEqual(rows[66]?.["value"], Bank.initialValue + 2 ** 32 + 4)
      assert.lengthOf(rows.filter((row) => row["token"] === Bank.emptyToken), 66)
      assert.lengthOf(rows.filter((row) => row["value"] === Bank.initialValue), 66)
      assert.strictEqual(database.prepare("PRAGMA integrity_check").get()?.["integrity_check"], "ok")
      database.close()
    }))
})

describe("Bank", () => {
  it("finds the transaction of a token, and none for a token of another run", () => {
    const sizes = { recorded: 30, additions: 3 }
    for (let index = 0; index < 33; index++) {
      const token = Bank.tokenOf(index, sizes.recorded)
      assert.lengthOf(token, Bank.emptyToken.length)
      assert.strictEqual(Bank.indexOf(token, sizes), index)
    }
    for (const token of ["txn-00000030", "add-00000003", Bank.emptyToken, "txn-1", ""]) {
      assert.isUndefined(Bank.indexOf(token, sizes))
    }
  })
})

describe("lostInRecovery", () => {
  const transactions = [[1], [2], [1, 2], [3], [2]].map((pages) => ({ pages: pages.map(toPageNumber) }))
  const lost = (acknowledged: ReadonlyArray<number>, found: ReadonlyArray<number>) =>
    [...lostInRecovery(transactions, new Set(acknowledged), new Set(found))].sort((left, right) => left - right)

  it("finds nothing when all that was acknowledged is there, and more", () => {
    assert.deepStrictEqual(lost([], []), [])
    assert.deepStrictEqual(lost([0, 3], [0, 1, 2, 3]), [])
  })

  it("finds what was acknowledged and is not there", () => {
    assert.deepStrictEqual(lost([0, 1, 3], [0]), [1, 3])
  })

  it("finds what others rest on and is not there, acknowledged or not", () => {
    assert.deepStrictEqual(lost([], [0, 2]), [1])
    assert.deepStrictEqual(lost([], [4]), [1, 2])
  })
})

describe("WriterProtocol", () => {
  const answers: ReadonlyArray<WriterAnswer> = [
    { _tag: "recovered", startUpCases: [], indices: [] },
    { _tag: "recovered", startUpCases: [], indices: [3] },
    { _tag: "recovered", startUpCases: ["RC-01"], indices: [] },
    { _tag: "recovered", startUpCases: ["RC-06", "RC-25"], indices: [5, 0, 17] },
    { _tag: "committed", elapsedMicros: 12, counts: { syncs: 3, conflicts: 2, retries: 1 }, indices: [4, 5] },
    { _tag: "finished" },
    { _tag: "failed", sentence: "the disk is full: a.db" }
  ]

  it("reads back what it writes", () => {
    for (const answer of answers) {
      const line = encodeAnswer(answer)
      assert.strictEqual(line.indexOf("\n"), line.length - 1)
      assert.deepStrictEqual(decodeAnswer(line.slice(0, -1)), answer)
    }
    assert.throws(() => decodeAnswer("commit"))
  })

  it("does not count a line that the process did not live to end", () => {
    const text = answers.map(encodeAnswer).join("")
    for (let cut = 0; cut <= text.length; cut++) {
      const reader = new LineReader()
      const lines = [...reader.take(text.slice(0, cut / 2)), ...reader.take(text.slice(cut / 2, cut))]
      const whole = text.slice(0, cut).split("\n").length - 1
      assert.deepStrictEqual(lines.map(decodeAnswer), answers.slice(0, whole))
    }
  })
})

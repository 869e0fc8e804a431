/** A process that works on all three adapters is killed on a real file system; what it was acknowledged is there. */
import { assert, describe, it } from "@effect/vitest"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Effect, Schema } from "effect"
import { EventJournal } from "effect/eventlog"
import { KeyValueStore, PersistedQueue } from "effect/persistence"
import { readdirSync } from "node:fs"
import { adapterLayers } from "./support/adapterDirectories.ts"
import { startProgram, temporaryDirectory } from "./support/children.ts"

const rounds = 5

/** The words behind the first of each line that begins with it. */
const said = (lines: ReadonlyArray<string>, what: string) =>
  lines.filter((line) => line.startsWith(`${what} `)).map((line) => line.slice(what.length + 1))

const checkStore = Effect.fnUntraced(function*(lines: ReadonlyArray<string>) {
  const store = yield* KeyValueStore.KeyValueStore
  for (const key of ["a", "b", "c"]) {
    const acknowledged = said(lines, "set").filter((line) => line.startsWith(key)).map((line) => Number(line.slice(2)))
    const found = Number(yield* store.get(key))
    const last = Math.max(0, ...acknowledged)
    assert.isTrue(found === last || found === last + 1, `${key}: ${found} after ${last}`)
  }
})

/** Takes everything that is left. */
const drain = Effect.fnUntraced(function*(round: number) {
  const queue = yield* PersistedQueue.make({ name: "q", schema: Schema.String })
  const last = yield* queue.offer("last", { id: `last of ${round}` })
  const taken: Array<string> = []
  while (true) {
    const id = yield* queue.take((value, { id }) =>
      Effect.sync(() => {
        if (id !== last) assert.strictEqual(value, `value of ${id}`)
        return id
      })
    )
    if (id === last) return taken
    taken.push(id)
  }
})

const checkQueues = Effect.fnUntraced(function*(round: number, lines: ReadonlyArray<string>) {
  const taken = yield* drain(round)
  assert.strictEqual(new Set(taken).size, taken.length, "each once")
  const handled = new Set(said(lines, "handled"))
  for (const id of said(lines, "done")) assert.notInclude(taken, id, "what was done is not repeated")
  for (const id of said(lines, "offered")) {
    assert.isTrue(handled.has(id) || taken.includes(id), `${id} was offered`)
  }
})

const checkJournal = Effect.fnUntraced(function*(written: ReadonlySet<string>) {
  const journal = yield* EventJournal.EventJournal
  const counts = new Map<string, number>()
  for (const { primaryKey } of yield* journal.entries) counts.set(primaryKey, (counts.get(primaryKey) ?? 0) + 1)
  for (const count of counts.values()) assert.strictEqual(count, 3, "batches are whole")
  for (const key of written) assert.isTrue(counts.has(key), `${key} was written`)
})

describe("adapters, SIGKILL", () => {
  it.live("lose nothing that was acknowledged", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const written = new Set<string>()
      for (let round = 0; round < rounds; round++) {
        const child = yield* startProgram("logAdapters.ts", [directory, `${round}`])
        yield* child.until((lines) => lines.length >= 400 + 150 * round)
        yield* child.kill
        const { lines } = child
        for (const key of said(lines, "written")) written.add(key)
        yield* Effect.gen(function*() {
          yield* checkStore(lines)
          yield* checkQueues(round, lines)
          yield* checkJournal(written)
        }).pipe(Effect.provide(adapterLayers(directory), { local: true }), Effect.provide(NodeVfs.layer))
      }
      assert.isAbove(written.size, 50)
      // All of them have been killed behind snapshots and truncations, too.
      for (const name of ["store", "queues", "journal"]) {
        assert.notInclude(readdirSync(`${directory}/${name}`), "0000000000000000.tlog")
      }
    }))
})

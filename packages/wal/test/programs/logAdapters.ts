/**
 * Works on a key-value store, queues and a journal under a directory until it is killed, and says on a line of its own
 * what it was acknowledged.
 *
 * Arguments: directory, number of the round.
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import { EventJournal } from "effect/eventlog/EventJournal"
import { KeyValueStore } from "effect/persistence/KeyValueStore"
import * as PersistedQueue from "effect/persistence/PersistedQueue"
import * as Schema from "effect/Schema"
import { adapterLayers } from "../support/adapterDirectories.ts"

const [directory = "", round = ""] = process.argv.slice(2)

const say = (line: string) => Effect.sync(() => void process.stdout.write(`${line}\n`))

const count = Effect.fnUntraced(function*(key: string) {
  const store = yield* KeyValueStore
  let last = Number((yield* store.get(key)) ?? 0)
  while (true) {
    last++
    yield* store.set(key, `${last}`)
    yield* say(`set ${key} ${last}`)
  }
})

const offer = Effect.gen(function*() {
  const queue = yield* PersistedQueue.make({ name: "q", schema: Schema.String })
  for (let i = 0;; i++) {
    const id = yield* queue.offer(`value of ${round}.${i}`, { id: `${round}.${i}` })
    yield* say(`offered ${id}`)
  }
})

const handle = Effect.gen(function*() {
  const queue = yield* PersistedQueue.make({ name: "q", schema: Schema.String })
  while (true) {
    const id = yield* queue.take((_, { id }) => Effect.as(say(`handled ${id}`), id))
    yield* say(`done ${id}`)
  }
})

const write = Effect.fnUntraced(function*(writer: number) {
  const journal = yield* EventJournal
  for (let i = 0;; i++) {
    const key = `${round}.${writer}.${i}`
    const entry = { event: "Written", primaryKey: key, payload: new TextEncoder().encode(key) }
    yield* journal.writeMany({ entries: [entry, entry, entry], effect: () => Effect.void })
    yield* say(`written ${key}`)
  }
})

const work = Effect.all([
  ...["a", "b", "c"].map(count),
  offer,
  handle,
  handle,
  write(0),
  write(1)
], { concurrency: "unbounded", discard: true })

// Nothing but a timer keeps the process alive while all its fibers wait for the disk.
setInterval(() => {}, 1000)
await Effect.runPromise(Effect.provide(work, adapterLayers(directory)).pipe(Effect.provide(NodeVfs.layer)))

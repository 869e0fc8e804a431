/** A journal compared with a list of insertions, whatever it is told. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { Entry, makeEntryIdUnsafe } from "effect/eventlog/EventJournal"
import fc from "fast-check"
import { entryAt, ids, imported, type Journal, payloads, remote, remoteId, unsent, write } from "./journalEntries.ts"

const anyRemote = fc.integer({ min: 1, max: 3 })
export const anyAction = fc.oneof(
  fc.record({ do: fc.constant("write" as const) }),
  fc.record({
    do: fc.constant("import" as const),
    from: anyRemote,
    entries: fc.array(fc.tuple(fc.nat(12), fc.integer({ min: 1, max: 6 }), fc.nat(2)), { maxLength: 5 })
  }),
  fc.record({ do: fc.constant("upload" as const), to: anyRemote, succeeds: fc.boolean() }),
  fc.record({ do: fc.constant("acks" as const), from: anyRemote, sequences: fc.array(fc.nat(8), { maxLength: 5 }) }),
  { arbitrary: fc.record({ do: fc.constant("destroy" as const) }), weight: 1 }
)
export type Action = typeof anyAction extends fc.Arbitrary<infer A> ? A : never

/** Insertions in order, with their source; what every remote has; where every remote is. */
export const replay = Effect.fnUntraced(function*(journal: Journal, actions: ReadonlyArray<Action>) {
  let insertions: Array<{ readonly entry: Entry; readonly source: number }> = []
  let uploaded = new Map<number, number>()
  let next = new Map<number, number>()
  const missing = (to: number) =>
    insertions.slice(uploaded.get(to) ?? 0).filter(({ source }) => source !== to).map(({ entry }) => entry)
      .toSorted(Entry.Order)
  let count = 0
  for (const action of actions) {
    switch (action.do) {
      case "write":
        insertions.push({ entry: yield* write(journal, `local ${count++}`), source: 0 })
        break
      case "import": {
        const entries = action.entries.map(([sequence, millis, number]) => [sequence, entryAt(millis, number)] as const)
        const known = new Set(insertions.map(({ entry }) => entry.idString))
        const { duplicates } = yield* imported(journal, remoteId(action.from), remote(...entries))
        assert.deepStrictEqual(
          duplicates,
          payloads(entries.map(([, entry]) => entry).filter((entry) => known.has(entry.idString)))
        )
        const fresh = new Map<string, Entry>()
        for (const [sequence, entry] of entries) {
          if (!known.has(entry.idString) && !fresh.has(entry.idString)) fresh.set(entry.idString, entry)
          next.set(action.from, Math.max(next.get(action.from) ?? 0, sequence + 1))
        }
        for (const entry of fresh.values()) insertions.push({ entry, source: action.from })
        break
      }
      case "upload": {
        const expected = missing(action.to)
        const sent = yield* Effect.result(
          journal.withRemoteUncommited(
            remoteId(action.to),
            (entries) => action.succeeds ? Effect.succeed(ids(entries)) : Effect.fail("no")
          )
        )
        if (action.succeeds && sent._tag === "Success") {
          assert.deepStrictEqual(Option.getOrElse(sent.success, () => []), ids(expected))
          uploaded.set(action.to, insertions.length)
        }
        break
      }
      case "acks": {
        yield* journal.writeRemoteAcks({
          remoteId: remoteId(action.from),
          acks: action.sequences.map((sequence) => ({ entryId: makeEntryIdUnsafe(), sequence }))
        })
        let at = next.get(action.from) ?? 0
        while (action.sequences.includes(at)) at++
        next.set(action.from, at)
        break
      }
      case "destroy":
        yield* journal.destroy
        insertions = []
        uploaded = new Map()
        next = new Map()
        break
    }
    const expected = insertions.map(({ entry }) => entry).toSorted(Entry.Order)
    assert.deepStrictEqual(ids(yield* journal.entries), ids(expected))
    for (const number of [1, 2, 3]) {
      assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(number)), next.get(number) ?? 0)
      assert.deepStrictEqual(yield* unsent(journal, remoteId(number)), payloads(missing(number)))
    }
  }
})

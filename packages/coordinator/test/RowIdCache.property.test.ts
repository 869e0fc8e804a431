/**
 * The cache over an allocator whose answers take as long as they like: many fibers on several connections, interrupts,
 * ids of their own choice, new schemas and new beginnings in between, in every order that fast-check thinks of.
 */
import { assert, describe, it } from "@effect/vitest"
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import { maxRowId } from "@tidemark/core/Scalars"
import { Effect, Fiber, References } from "effect"
import fc from "fast-check"
import { checkProperty, epoch, forkNow, isWaiting, normal, rowId, tableId } from "./support/rowIds.ts"
import { makeSlowRowIds } from "./support/slowRowIds.ts"

const table = tableId(7)
const connections = 3

type Step =
  | { readonly what: "ask"; readonly connection: number; readonly isStale: boolean }
  | { readonly what: "take"; readonly connection: number }
  | { readonly what: "interrupt"; readonly pick: number }
  | { readonly what: "process" | "deliver"; readonly pick: number }
  | { readonly what: "bump"; readonly connection: number; readonly above: number }
  | { readonly what: "forget"; readonly connection: number }
  | { readonly what: "schema"; readonly number: number; readonly isInitialized: boolean }
  | { readonly what: "again" }

const connection = fc.nat(connections - 1)
const pick = fc.nat(20)

const someStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      what: fc.constant("ask" as const),
      connection,
      isStale: fc.nat(11).map((die) => die === 0)
    })
  },
  { weight: 4, arbitrary: fc.record({ what: fc.constant("take" as const), connection }) },
  { weight: 3, arbitrary: fc.record({ what: fc.constant("interrupt" as const), pick }) },
  { weight: 4, arbitrary: fc.record({ what: fc.constant("process" as const), pick }) },
  { weight: 8, arbitrary: fc.record({ what: fc.constant("deliver" as const), pick }) },
  { weight: 2, arbitrary: fc.record({ what: fc.constant("bump" as const), connection, above: fc.nat(12) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("forget" as const), connection }) },
  {
    weight: 1,
    arbitrary: fc.record({
      what: fc.constant("schema" as const),
      // Numbers come back: what was under them must not.
      number: fc.nat(2),
      isInitialized: fc.nat(4).map((die) => die > 0)
    })
  },
  { weight: 1, arbitrary: fc.constant<Step>({ what: "again" }) }
)

const someRun = fc.record({
  rangeSizes: fc.tuple(fc.integer({ min: 1, max: 8 }), fc.constant(1), fc.constant(64)),
  /** Sometimes it ends while we look. */
  max: fc.oneof(fc.bigInt({ min: 0n, max: 200n }), fc.bigInt({ min: maxRowId - 60n, max: maxRowId })),
  steps: fc.array(someStep, { minLength: 10, maxLength: 80, size: "max" })
})

interface Asked {
  readonly fiber: Fiber.Fiber<bigint, { readonly _tag: string }>
  readonly connection: number
  readonly schema: number
  readonly life: number
  wasInterrupted: boolean
  isSettled: boolean
}

describe("RowIdCache", () => {
  it.effect("RID-04 RID-05 RID-06 RID-09 RID-10 RID-11 whatever happens, no id is given twice, and nobody waits in vain", () => {
    const seen = { ids: 0, refusals: new Map<string, number>(), interrupted: 0 }
    return Effect.gen(function*() {
      yield* checkProperty(someRun, ({ max, rangeSizes, steps }) =>
        Effect.scoped(Effect.gen(function*() {
          const rowIds = yield* RowIdAllocator.RowIdAllocator
          const owner = yield* RowIdAllocator.RowIdOwner
          const wires = rangeSizes.map(() => makeSlowRowIds(rowIds, owner))
          const onTheirWay = () => wires.flatMap(({ sent }) => sent)
          const caches = yield* Effect.forEach(wires, (wire, index) =>
            Effect.map(
              RowIdCache.make({ rangeSize: rangeSizes[index] }).pipe(
                Effect.provideService(RowIdAllocator.RowIdAllocator, wire.rowIds)
              ),
              (cache) => cache.table(table)
            ))
          const cacheOf = (index: number) => caches[index] ?? assert.fail("no such connection")

          // What happened since the table was initialised last, which is a life of its ids.
          let life = 0
          let schema = 0
          let given = new Set<bigint>()
          let floors = Array.from({ length: connections }, () => max)
          let highest = max
          const begin = Effect.fnUntraced(function*(isInitialized: boolean) {
            life++
            given = new Set()
            floors = floors.map(() => max)
            highest = max
            if (isInitialized) {
              yield* rowIds.initialize({ schemaEpoch: epoch(schema), table, ...normal(max) })
            }
          })
          const gave = (connection: number, id: bigint) => {
            assert.isFalse(given.has(id), `${id} is given twice`)
            assert.isAbove(Number(id - (floors[connection] ?? 0n)), 0, `${id} is at or below a chosen one`)
            assert.isTrue(id <= maxRowId)
            given.add(id)
            if (id > highest) highest = id
            seen.ids++
          }

          const asked: Array<Asked> = []
          /** Looks at who has got an answer since. */
          const settle = Effect.fnUntraced(function*() {
            for (const one of asked) {
              if (one.isSettled || isWaiting(one.fiber)) continue
              one.isSettled = true
              if (one.wasInterrupted) continue
              const answer = yield* Effect.match(Fiber.join(one.fiber), {
                onSuccess: (id) => id,
                onFailure: (error) => error._tag
              })
              if (typeof answer === "bigint") {
                // Who is given an id asked in this life, or waited until it began.
                assert.strictEqual(one.schema, schema, "an id under another schema")
                gave(one.connection, answer)
              } else seen.refusals.set(answer, (seen.refusals.get(answer) ?? 0) + 1)
            }
            // In the order in which they came: nobody waits who came before one that has an id of the same connection.
            for (const [index, one] of asked.entries()) {
              if (one.isSettled) continue
              for (const later of asked.slice(index + 1)) {
                assert.isFalse(
                  later.isSettled && !later.wasInterrupted && later.connection === one.connection &&
                    later.schema === one.schema && later.life === one.life && one.life === life,
                  "somebody was overtaken"
                )
              }
            }
            for (const { sent } of wires) assert.isAtMost(sent.length, 1, "two reservations of one connection")
          })

          yield* begin(true)
          for (const step of steps) {
            if (step.what === "ask") {
              const of = step.isStale ? schema + 1 : schema
              const fiber = yield* forkNow(cacheOf(step.connection).next(epoch(of)))
              asked.push({
                fiber,
                connection: step.connection,
                schema: of,
                life,
                wasInterrupted: false,
                isSettled: false
              })
            } else if (step.what === "take") {
              const id = cacheOf(step.connection).nextUnsafe(epoch(schema))
              if (id !== undefined) gave(step.connection, id)
            } else if (step.what === "interrupt") {
              const waiting = asked.filter(({ fiber }) => isWaiting(fiber))
              const one = waiting[step.pick % Math.max(waiting.length, 1)]
              if (one !== undefined) {
                one.wasInterrupted = true
                seen.interrupted++
                yield* Fiber.interrupt(one.fiber)
              }
            } else if (step.what === "process" || step.what === "deliver") {
              const all = onTheirWay()
              const sent = all[step.pick % Math.max(all.length, 1)]
              if (sent !== undefined) yield* sent[step.what]
            } else if (step.what === "bump") {
              const chosen = highest + BigInt(step.above)
              if (chosen <= maxRowId) {
                const cache = cacheOf(step.connection)
                yield* Effect.ignore(cache.bump(epoch(schema), rowId(chosen)))
                if (chosen > (floors[step.connection] ?? 0n)) floors[step.connection] = chosen
              }
            } else if (step.what === "forget") {
              cacheOf(step.connection).forget()
            } else if (step.what === "schema") {
              if (step.number !== schema) {
                schema = step.number
                yield* owner.setSchemaEpoch(epoch(schema))
                yield* begin(step.isInitialized)
              }
            } else {
              yield* begin(true)
            }
            yield* settle()
          }
          // Everything arrives in the end, and whoever still waits is answered.
          for (let [sent] = onTheirWay(); sent !== undefined; [sent] = onTheirWay()) {
            yield* sent.deliver
            yield* settle()
          }
          for (const { fiber } of asked) assert.isFalse(isWaiting(fiber), "somebody waits in vain")
        })).pipe(Effect.provide(RowIdAllocator.layer, { local: true })), 250)
      // The runs were about something.
      assert.isAbove(seen.ids, 1000)
      assert.isAbove(seen.interrupted, 200)
      for (const refusal of ["Exhausted", "SchemaMismatch", "TableNotInitialized"]) {
        assert.isAbove(seen.refusals.get(refusal) ?? 0, 10, refusal)
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
  })
})

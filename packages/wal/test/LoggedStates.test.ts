/** The states behind the adapters: what they capture for a snapshot gives the same state again, whatever comes then. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import fc from "fast-check"
import * as EventJournalFormat from "../src/EventJournalFormat.ts"
import { JournalState } from "../src/internal/journalState.ts"
import { KeyValueState } from "../src/internal/keyValueState.ts"
import type { LoggedState } from "../src/internal/loggedState.ts"
import { QueueState } from "../src/internal/queueState.ts"
import * as KeyValueFormat from "../src/KeyValueFormat.ts"
import * as PersistedQueueFormat from "../src/PersistedQueueFormat.ts"

interface StateUnderTest<State extends LoggedState<Command>, Command> {
  readonly empty: () => State
  readonly encode: (command: Command) => Uint8Array
  readonly decode: (bytes: Uint8Array) => Result.Result<Command, unknown>
  readonly commands: fc.Arbitrary<Command>
  /** Everything that can be seen of a state. */
  readonly view: (state: State) => unknown
}

const stateContract = <State extends LoggedState<Command>, Command>(test: StateUnderTest<State, Command>) => {
  const applyAll = (state: State, commands: ReadonlyArray<Command>) => {
    for (const command of commands) state.apply(command, test.encode(command).length)
    return state
  }
  /** As a snapshot and a replay do it. */
  const restored = (commands: ReadonlyArray<Command>) =>
    applyAll(test.empty(), commands.map((command) => Result.getOrThrow(test.decode(test.encode(command)))))
  const many = fc.array(test.commands, { maxLength: 40 })

  it("gives the same state out of a snapshot, and goes on as it would have", () => {
    fc.assert(
      fc.property(many, many, (before, after) => {
        const state = applyAll(test.empty(), before)
        const copy = restored(state.capture())
        assert.deepStrictEqual(test.view(copy), test.view(state))
        assert.deepStrictEqual(test.view(applyAll(copy, after)), test.view(applyAll(state, after)))
      }),
      { numRuns: 300 }
    )
  })

  it("does not change what it has captured", () => {
    fc.assert(fc.property(many, many, (before, after) => {
      const state = applyAll(test.empty(), before)
      const captured = state.capture()
      const view = test.view(restored(captured))
      applyAll(state, after)
      assert.deepStrictEqual(test.view(restored(captured)), view)
    }))
  })

  it("knows about how large it is", () => {
    fc.assert(fc.property(many, (commands) => {
      const state = applyAll(test.empty(), commands)
      const exact = state.capture().reduce((sum, command) => sum + test.encode(command).length, 0)
      assert.isAtLeast(state.liveBytes, 0)
      // What a remote or an element without its payload takes is not counted to the byte.
      assert.isBelow(Math.abs(state.liveBytes - exact), 200)
    }))
  })
}

const text = fc.constantFrom("", "a", "ab", "b", "ba", "\ud83d")

describe("KeyValueState", () => {
  stateContract<KeyValueState, KeyValueFormat.KeyValueCommand>({
    empty: () => new KeyValueState(),
    encode: KeyValueFormat.encode,
    decode: KeyValueFormat.decode,
    commands: fc.oneof(
      { arbitrary: fc.record({ type: fc.constant("set" as const), key: text, value: fc.string() }), weight: 5 },
      {
        arbitrary: fc.record({
          type: fc.constant("set" as const),
          key: text,
          value: fc.uint8Array({ maxLength: 500 }).map((bytes) => new Uint8Array(bytes))
        }),
        weight: 3
      },
      { arbitrary: fc.record({ type: fc.constant("remove" as const), key: text }), weight: 3 },
      { arbitrary: fc.record({ type: fc.constant("clearPrefix" as const), prefix: text }), weight: 1 },
      { arbitrary: fc.record({ type: fc.constant("clear" as const) }), weight: 1 }
    ),
    view: (state) => [state.size, state.keys().toSorted().map((key) => [key, state.get(key)]), state.liveBytes]
  })
})

describe("QueueState", () => {
  const target = { queue: fc.constantFrom("q", "r"), id: fc.constantFrom("1", "2", "3", "4") }
  const time = fc.nat(10)
  const maxAttempts = fc.constantFrom(1, 2, Number.POSITIVE_INFINITY)
  const element = fc.record({
    ...target,
    isCustomId: fc.boolean(),
    state: fc.constant("pending" as const),
    attempts: fc.constant(0),
    maxAttempts: fc.constant(0),
    visibleAt: time,
    changedAt: time,
    payload: fc.option(fc.string({ maxLength: 500 }), { nil: undefined })
  })
  stateContract<QueueState, PersistedQueueFormat.QueueCommand>({
    empty: () => new QueueState(),
    encode: PersistedQueueFormat.encode,
    decode: PersistedQueueFormat.decode,
    commands: fc.oneof(
      fc.record({ type: fc.constant("put" as const), element }),
      fc.record({ type: fc.constant("claim" as const), ...target, maxAttempts }),
      fc.record({ type: fc.constant("complete" as const), ...target, at: time }),
      fc.record({ type: fc.constant("fail" as const), ...target, at: time }),
      fc.record({ type: fc.constant("retry" as const), ...target, visibleAt: time }),
      fc.record({ type: fc.constant("release" as const), ...target }),
      fc.record({ type: fc.constant("cleanup" as const), completedUpTo: time, failedUpTo: time })
    ),
    // The order counts, the numbers that make it do not.
    view: (state) =>
      Array.from(state.elements())
        .sort((a, b) => a.order - b.order)
        .map(({ attempts, changedAt, id, isCustomId, maxAttempts, payload, queue, state, visibleAt }) => ({
          attempts,
          changedAt,
          id,
          isCustomId,
          maxAttempts,
          payload,
          queue,
          state,
          visibleAt
        }))
  })

  it("forgets a generated id when its element is done, and the payload of every other", () => {
    const state = new QueueState()
    const put = (id: string, isCustomId: boolean) => {
      const command: PersistedQueueFormat.QueueCommand = {
        type: "put",
        element: {
          queue: "q",
          id,
          isCustomId,
          state: "pending",
          attempts: 0,
          maxAttempts: 0,
          visibleAt: 0,
          changedAt: 0,
          payload: "x".repeat(10_000)
        }
      }
      state.apply(command, PersistedQueueFormat.encode(command).length)
    }
    put("generated", false)
    put("custom", true)
    put("failed", false)
    assert.isAbove(state.liveBytes, 30_000)
    state.apply({ type: "complete", queue: "q", id: "generated", at: 1 }, 0)
    state.apply({ type: "complete", queue: "q", id: "custom", at: 1 }, 0)
    state.apply({ type: "fail", queue: "q", id: "failed", at: 1 }, 0)
    assert.deepStrictEqual(Array.from(state.elements(), ({ id, payload }) => [id, payload?.length]), [
      ["custom", undefined],
      ["failed", 10_000]
    ])
    assert.isBelow(state.liveBytes, 10_500)
    state.apply({ type: "cleanup", completedUpTo: 1, failedUpTo: 1 }, 0)
    assert.strictEqual(state.liveBytes, 0)
  })
})

describe("JournalState", () => {
  const fixed = (length: number, maximum: number) =>
    fc.array(fc.nat(maximum), { minLength: 1, maxLength: 1 }).map(([last]) => {
      const bytes = new Uint8Array(length)
      bytes[length - 1] = last ?? 0
      return bytes
    })
  const remoteId = fixed(2, 2)
  const small = fc.nat(12)
  const names = ["a", "b"]
  stateContract<JournalState, EventJournalFormat.JournalCommand>({
    empty: () => new JournalState(),
    encode: EventJournalFormat.encode,
    decode: EventJournalFormat.decode,
    commands: fc.oneof(
      {
        arbitrary: fc.record({
          type: fc.constant("entry" as const),
          id: fixed(16, 20),
          source: fc.option(remoteId, { nil: undefined }),
          event: fc.constantFrom(...names),
          primaryKey: fc.constantFrom(...names),
          payload: fc.uint8Array({ maxLength: 3 }).map((bytes) => new Uint8Array(bytes))
        }),
        weight: 12
      },
      { arbitrary: fc.record({ type: fc.constant("next" as const), remoteId, next: small }), weight: 2 },
      {
        arbitrary: fc.record({
          type: fc.constant("acks" as const),
          remoteId,
          firstSequence: fc.nat(2),
          sequences: fc.array(small, { maxLength: 4 })
        }),
        weight: 2
      },
      { arbitrary: fc.record({ type: fc.constant("uploaded" as const), remoteId, insertion: small }), weight: 2 },
      { arbitrary: fc.record({ type: fc.constant("destroy" as const) }), weight: 1 }
    ),
    view: (state) => [
      state.ordered.map((entry) => [entry.idString, entry.event, entry.primaryKey, Array.from(entry.payload)]),
      state.latestId,
      Array.from({ length: 21 }, (_, last) => {
        const id = new Uint8Array(16)
        id[15] = last
        return state.get(id)?.idString
      }),
      [0, 1, 2].map((last) => {
        const id = new Uint8Array([0, last])
        const { entries, upTo } = state.uncommitted(id)
        return [state.nextSequence(id), entries.map(({ idString }) => idString), upTo]
      })
    ]
  })
})

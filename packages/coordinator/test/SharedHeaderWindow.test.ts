import { assert, describe, it } from "@effect/vitest"
import { readHeader } from "@tidemark/coordinator/SharedHeader"
import { offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import { Clock, Effect } from "effect"
import { writeWindow } from "../src/internal/headerWindow.ts"
import { isWhole, stateAt, watched } from "./support/headerStates.ts"
import { contentsOf, freshRegion } from "./support/sharedHeaders.ts"

interface Store {
  readonly offset: number
  readonly value: bigint
}

/** The stores of publishing these states one after the other, without doing them to anybody's memory. */
const storesOf = (...commits: ReadonlyArray<number>): ReadonlyArray<Store> => {
  const stores: Array<Store> = []
  const region = watched(freshRegion(), {
    onStore: (offset, value) => {
      stores.push({ offset, value })
    }
  })
  for (const commit of commits) writeWindow(region, stateAt(commit))
  return stores
}

const apply = (region: SharedRegion, stores: ReadonlyArray<Store>) => {
  for (const { offset, value } of stores) region.store(offset, value)
}

/** A clock for a reader: it stands still, or shows what it is told. */
const clockAt = (nowNanos: () => bigint) =>
  Effect.map(Clock.Clock, (clock): Clock.Clock => ({
    currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
    currentTimeMillis: clock.currentTimeMillis,
    currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
    currentTimeNanos: clock.currentTimeNanos,
    monotonicTimeNanosUnsafe: nowNanos,
    monotonicTimeNanos: Effect.sync(nowNanos),
    sleep: (duration) => clock.sleep(duration)
  }))

/** A reader that gives up at once: the time it may spin is over whenever it looks at the clock. */
const impatient = Effect.gen(function*() {
  let now = 0n
  const clock = yield* clockAt(() => now += 100_000n)
  return (region: SharedRegion) => readHeader(region, clock).snapshotUnsafe()
})

describe("the window of the shared header", () => {
  it("SHM-05 the stores: odd, schema epoch, commit, ECS epoch, next commit, even", () => {
    assert.deepStrictEqual(storesOf(5), [
      { offset: offsets.snapshotSequence, value: 1n },
      { offset: offsets.schemaEpoch, value: 15n },
      { offset: offsets.commitSeq, value: 5n },
      { offset: offsets.ecsEpoch, value: 35n },
      { offset: offsets.nextCommitSeq, value: 6n },
      { offset: offsets.snapshotSequence, value: 2n }
    ])
  })

  it.effect("SHM-04 at every interleaving of two windows with the loads of a reader: nothing, or one whole state", () =>
    Effect.gen(function*() {
      const stores = storesOf(5, 6)
      const read = yield* impatient
      /** What was visible after so many stores; `undefined` inside of a window. */
      const visible = [0n, ...Array<undefined>(5), 5n, ...Array<undefined>(5), 6n]
      const seen = new Map<bigint | undefined, number>()
      let interleavings = 0
      // Before the i-th load the first `at[i]` stores have happened.
      const visit = (at: ReadonlyArray<number>) => {
        if (at.length < 5) {
          for (let next = at.at(-1) ?? 0; next <= stores.length; next++) visit([...at, next])
          return
        }
        interleavings++
        const region = freshRegion()
        let done = 0
        let loads = 0
        const snapshot = read(watched(region, {
          onLoad: () => {
            // Later looks of the same reader find the stores where the fifth load has found them.
            const until = at[loads++] ?? done
            apply(region, stores.slice(done, until))
            done = Math.max(done, until)
          }
        }))
        seen.set(snapshot?.commitSeq, (seen.get(snapshot?.commitSeq) ?? 0) + 1)
        if (snapshot === undefined) return
        assert.isTrue(
          isWhole(snapshot),
          `${at.join()}: ${snapshot.commitSeq} ${snapshot.schemaEpoch} ${snapshot.ecsEpoch}`
        )
        // It was visible at some moment between the reader's beginning and its end.
        assert.include(visible.slice(at[0], done + 1), snapshot.commitSeq, at.join())
      }
      visit([])
      // Five positions among 0 ... 12, not falling.
      assert.strictEqual(interleavings, 6188)
      assert.isTrue([undefined, 0n, 5n, 6n].every((commit) => seen.has(commit)), String([...seen]))
    }))

  it.effect("SHM-06 after a publisher that died at any step nobody sees a mixture, and the next window ends it", () =>
    Effect.gen(function*() {
      const read = yield* impatient
      const stores = storesOf(5, 6)
      for (let steps = 0; steps <= stores.length; steps++) {
        const region = freshRegion()
        apply(region, stores.slice(0, steps))
        const snapshot = read(region)
        assert.strictEqual(snapshot?.commitSeq, [0n, 5n, 6n][steps / 6], `after ${steps} steps`)
        if (snapshot !== undefined) assert.isTrue(isWhole(snapshot))
        const sequence = contentsOf(region).snapshotSequence
        writeWindow(region, stateAt(5))
        assert.deepStrictEqual(read(region), stateAt(5))
        // The sequence never stays, or a reader that looked before could take it for the same state.
        assert.strictEqual(contentsOf(region).snapshotSequence, sequence + (sequence % 2n === 1n ? 1n : 2n))
      }
    }))

  it.effect("a sequence at the end of its 64 bits goes on at 0", () =>
    Effect.gen(function*() {
      const read = yield* impatient
      for (const sequence of [2n ** 64n - 2n, 2n ** 64n - 1n]) {
        const region = freshRegion()
        region.store(offsets.snapshotSequence, sequence)
        writeWindow(region, stateAt(5))
        assert.strictEqual(region.load(offsets.snapshotSequence), 0n)
        assert.deepStrictEqual(read(region), stateAt(5))
      }
    }))

  it("what cannot be published opens no window", () => {
    const region = freshRegion()
    const stores: Array<number> = []
    const watching = watched(region, { onStore: (offset) => void stores.push(offset) })
    // What a caller without types could hand over.
    const broken = { ...stateAt(5), ecsEpoch: undefined } as unknown as ReturnType<typeof stateAt>
    assert.throws(() => writeWindow(watching, broken), TypeError)
    assert.deepStrictEqual(stores, [])
  })

  describe("SHM-04 how long a reader stays with an open window", () => {
    const openWindow = () => {
      const region = freshRegion()
      region.store(offsets.snapshotSequence, 1n)
      let loads = 0
      const counted = watched(region, { onLoad: () => void loads++ })
      const loadsOf = (read: () => unknown) => {
        loads = 0
        read()
        return loads
      }
      return { region, counted, loadsOf }
    }

    it.effect("50 microseconds, once for each window", () =>
      Effect.gen(function*() {
        const { counted, loadsOf, region } = openWindow()
        let now = 0n
        let asked = 0
        const clock = yield* clockAt(() => {
          asked++
          // Two microseconds, as 64 looks take.
          return now += 2000n
        })
        const reader = readHeader(counted, clock)
        assert.strictEqual(loadsOf(() => assert.isUndefined(reader.snapshotUnsafe())), 2 + 25 * 64)
        assert.isAtMost(Number(now), 54_000)
        assert.isAtMost(asked, 27)
        // The time for this window is used up: whoever comes next is answered after two loads.
        for (let i = 0; i < 1000; i++) assert.strictEqual(loadsOf(() => reader.snapshotUnsafe()), 2)
        // Another window has a time of its own.
        region.store(offsets.snapshotSequence, 3n)
        assert.isAbove(loadsOf(() => reader.snapshotUnsafe()), 1000)
        writeWindow(region, stateAt(5))
        assert.deepStrictEqual(reader.snapshotUnsafe(), stateAt(5))
      }))

    it.effect("a bounded number of looks where the clock stands still", () =>
      Effect.gen(function*() {
        const { counted, loadsOf } = openWindow()
        const clock = yield* clockAt(() => 0n)
        assert.isAtMost(loadsOf(() => readHeader(counted, clock).snapshotUnsafe()), 2000)
      }))

    it.effect("it takes the state of a window that closes meanwhile", () =>
      Effect.gen(function*() {
        const { region } = openWindow()
        let loads = 0
        const closing = watched(region, {
          onLoad: () => {
            if (++loads === 500) writeWindow(region, stateAt(9))
          }
        })
        const clock = yield* clockAt(() => 0n)
        assert.deepStrictEqual(readHeader(closing, clock).snapshotUnsafe(), stateAt(9))
      }))
  })
})

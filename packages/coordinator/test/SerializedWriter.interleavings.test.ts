import { assert, describe, it } from "@effect/vitest"
import { offsets, toWriterWord } from "@tidemark/coordinator/SharedHeaderFormat"
import { toTxnId } from "@tidemark/core/Scalars"
import { Effect } from "effect"
import { makeSerializedWriter } from "../src/internal/serializedWriter.ts"
import {
  explore,
  isBetween,
  makeRandom,
  type PartyState,
  type Program,
  runAlone,
  same,
  wander,
  type WorldState
} from "./support/interleavings.ts"

const idOf = ({ self }: { readonly self: { readonly pid: number } }) => toTxnId(BigInt(self.pid * 10))

const writerOf = (surroundings: Parameters<Program>[0]) =>
  makeSerializedWriter({ region: () => surroundings.region, liveness: surroundings.liveness })

/** Becomes the writer, and then does what it is told to as long as it is. */
const acquire = (whileWriter: Program, lease?: number): Program => (surroundings) =>
  writerOf(surroundings).acquire(idOf(surroundings), { lease }).pipe(
    Effect.matchEffect({
      onFailure: () => Effect.sync(() => surroundings.mark("busy")),
      onSuccess: () => {
        surroundings.mark("in")
        return whileWriter(surroundings)
      }
    })
  )

const release: Program = (surroundings) =>
  Effect.sync(() => {
    surroundings.mark("leaving")
    surroundings.mark(`released: ${writerOf(surroundings).release(idOf(surroundings))}`)
  })

/** Becomes the writer and stays it. */
const become = acquire(() => Effect.void)

/** Becomes the writer, is it for a while, and stops being it. */
const write = acquire((surroundings) => {
  surroundings.pause()
  return release(surroundings)
})

/** Is the writer for longer than its lease. */
const overstay = acquire((surroundings) => {
  surroundings.advance(10_000)
  return release(surroundings)
}, 1000)

const clear: Program = (surroundings) =>
  writerOf(surroundings).clearStale.pipe(
    Effect.matchEffect({
      onFailure: () => Effect.sync(() => surroundings.mark("busy")),
      onSuccess: (answer) => Effect.sync(() => surroundings.mark(answer))
    })
  )

const word = ({ words }: WorldState, offset: number) => words.get(offset) ?? 0n

const isIn = (party: PartyState) => party.status !== "killed" && isBetween(party, "in", "leaving")

/** Whoever is the writer and has no lease finds its own words, whatever others do. Those with a lease are left out. */
const checkWriters = (state: WorldState, withoutLease = state.parties): void => {
  const inside = withoutLease.filter(isIn)
  if (inside.length > 1) assert.fail("there are two writers")
  for (const party of inside) {
    same(word(state, offsets.writerTxnId), idOf(party), "the id of the writer")
    same(word(state, offsets.writerOwner) & 0xffffffffn, BigInt(party.self.pid), "its pid")
    same(word(state, offsets.writerBirth), party.self.birth, "its birth")
    same(word(state, offsets.writerLeaseExpiry), 0n, "its lease")
  }
  if (word(state, offsets.writerTxnId) === 0n && (word(state, offsets.writerOwner) & 0xffffffffn) === 0n) {
    same(word(state, offsets.writerBirth), 0n, "the birth of a free writer")
    same(word(state, offsets.writerLeaseExpiry), 0n, "the lease of a free writer")
  }
}

const checkFree = (state: WorldState): void => {
  for (const offset of [offsets.writerTxnId, offsets.writerBirth, offsets.writerLeaseExpiry]) {
    assert.strictEqual(word(state, offset), 0n)
  }
  assert.strictEqual(word(state, offsets.writerOwner) & 0xffffffffn, 0n)
}

/** Nobody is in the way of a process that comes after all this, and after all leases. */
const checkNextOne = (state: WorldState): void => {
  const after = runAlone(state, write, 10_000)
  assert.deepStrictEqual(after.parties.at(-1)?.marks, ["in", "leaving", "released: true"])
  checkFree(after)
}

/** Words that a dead process has left behind, after each of its steps. */
const leftovers = (() => {
  const pid = 99
  const clearing = 0x80000000
  const words = (id: bigint, owner: bigint, birth: bigint, lease: bigint): ReadonlyMap<number, bigint> =>
    new Map([
      [offsets.writerTxnId, id],
      [offsets.writerOwner, owner],
      [offsets.writerBirth, birth],
      [offsets.writerLeaseExpiry, lease]
    ])
  const held = toWriterWord({ pid, generation: 4 })
  const emptied = toWriterWord({ pid: pid + clearing, generation: 4 })
  return {
    A1: words(0n, held, 0n, 0n),
    A2: words(0n, held, 9n, 0n),
    "A3, and its lease is over": words(0n, held, 9n, 999n),
    A4: words(7n, held, 9n, 0n),
    "A4, and its lease is over": words(7n, held, 9n, 999n),
    "its id, of a program that takes the id first": words(7n, toWriterWord({ pid: 0, generation: 4 }), 9n, 0n),
    R1: words(7n, emptied, 9n, 999n),
    R2: words(0n, emptied, 9n, 999n),
    R3: words(0n, emptied, 0n, 999n),
    R4: words(0n, emptied, 0n, 0n)
  }
})()

describe("SerializedWriter, in every order of two processes", () => {
  it("SHM-08 two that want to be it: one at a time, and free afterwards", () => {
    const { states } = explore({
      parties: [write, write],
      check: checkWriters,
      checkEnd: (state) => {
        checkFree(state)
        const acquired = state.parties.filter(({ marks }) => marks.includes("in"))
        assert.isAtLeast(acquired.length, 1, "they are not in each other's way")
        for (const { marks } of acquired) assert.strictEqual(marks.at(-1), "released: true")
        assert.isAtLeast(Number(word(state, offsets.writerOwner) >> 32n), acquired.length, "the generation grows")
      }
    })
    assert.isAbove(states, 500)
  })

  it("SHM-09 one is killed between any two steps: the other one and the next one get on", () => {
    const { states } = explore({
      parties: [write, write],
      kills: 1,
      check: checkWriters,
      checkEnd: checkNextOne
    })
    assert.isAbove(states, 1000)
  })

  it.each(Object.entries(leftovers))("SHM-09 behind a writer that died after %s", (_, words) => {
    explore({
      words,
      parties: [clear, become],
      check: checkWriters,
      checkEnd: (state) => {
        const [cleaner, writer] = state.parties
        // It becomes the writer unless it came while the other one was clearing.
        if (writer?.marks.includes("in") !== true) {
          assert.deepStrictEqual([cleaner?.marks, writer?.marks], [["cleared"], ["busy"]])
          checkNextOne(state)
        }
      }
    })
    explore({ words, parties: [clear, clear], kills: 1, check: checkWriters, checkEnd: checkNextOne })
    explore({
      words,
      parties: [clear, clear],
      check: checkWriters,
      checkEnd: (state) => {
        checkFree(state)
        const answers = state.parties.flatMap(({ marks }) => marks)
        assert.lengthOf(answers.filter((answer) => answer === "cleared"), 1, "it is cleared once")
      }
    })
  })

  it("SHM-09 a lease runs out: who was cleared by it disturbs nobody any more", () => {
    const releases = new Set<string>()
    explore({
      parties: [overstay, become],
      isTimed: true,
      check: (state) => checkWriters(state, state.parties.slice(1)),
      checkEnd: ({ parties }) => {
        for (const { marks } of parties) for (const mark of marks) releases.add(mark)
      }
    })
    assert.includeMembers([...releases], ["released: true", "released: false"])
  })

  it("SHM-09 a writer that came between makes the clearing start over: the answer is Busy", () => {
    let busy = 0
    explore({
      words: leftovers.A4,
      parties: [clear, become],
      check: checkWriters,
      checkEnd: (state) => {
        if (state.parties[0]?.marks.includes("busy") === true) busy++
      }
    })
    assert.isAbove(busy, 0)
  })
})

/** Two transactions of one process, one after the other, with a lease each that tells which it is. */
const writeTwice: Program = (surroundings) => {
  const writer = writerOf(surroundings)
  const one = idOf(surroundings)
  return Effect.forEach([one, toTxnId(one + 1n)], (id) =>
    Effect.andThen(
      Effect.ignore(writer.acquire(id, { lease: Number(id) * 1000 })),
      Effect.sync(() => writer.release(id))
    ), { discard: true })
}

/** Asks who is the writer. */
const ask: Program = (surroundings) =>
  Effect.sync(() => {
    const holder = writerOf(surroundings).holder()
    if (holder === undefined) return surroundings.mark("nobody")
    const { birth, generation, id, leaseExpiryUnixSeconds, pid } = holder
    surroundings.mark(`transaction ${id} of ${pid} ${birth}, generation ${generation}, until ${leaseExpiryUnixSeconds}`)
  })

describe("SerializedWriter, for who asks", () => {
  it("SHM-08 what is said of the writer is of one of them, however they change meanwhile", () => {
    const answers = new Set<string>()
    for (let seed = 0; seed < 1500; seed++) {
      wander({
        parties: [writeTwice, ask],
        check: () => {},
        checkEnd: ({ parties }) => {
          for (const mark of parties[1]?.marks ?? []) answers.add(mark)
        }
      }, makeRandom(seed))
    }
    assert.deepStrictEqual([...answers].sort(), [
      "nobody",
      // A second and a thousand milliseconds for each number of the id, from second 1,000 on.
      "transaction 1010 of 101 7001, generation 1, until 2010",
      "transaction 1011 of 101 7001, generation 2, until 2011"
    ])
  })
})

describe("SerializedWriter, three processes in random orders", () => {
  it("SHM-08 SHM-09 with leftovers, leases and kills", () => {
    const starts = [undefined, ...Object.values(leftovers)]
    for (let seed = 0; seed < 400; seed++) {
      const hasLease = seed % 4 === 0
      wander({
        words: starts[seed % starts.length],
        parties: [hasLease ? overstay : write, write, seed % 3 === 0 ? clear : write],
        isTimed: hasLease,
        kills: 2,
        check: (state) => checkWriters(state, hasLease ? state.parties.slice(1) : state.parties),
        checkEnd: checkNextOne
      }, makeRandom(seed))
    }
  })
})

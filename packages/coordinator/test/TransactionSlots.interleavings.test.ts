import { assert, describe, it } from "@effect/vitest"
import { offsets, regionsOf } from "@tidemark/coordinator/SharedHeaderFormat"
import * as Format from "@tidemark/coordinator/TransactionSlotFormat"
import { CommitSeq, SchemaEpoch, toCommitSeq, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { Effect, Scope } from "effect"
import { makeTransactionSlots } from "../src/internal/transactionSlots.ts"
import {
  explore,
  isBetween,
  makeRandom,
  type PartyState,
  type Program,
  runAlone,
  same,
  type Surroundings,
  wander,
  type WorldState
} from "./support/interleavings.ts"

/** In place of a snapshot that is not taken yet: no horizon is above it. */
const none = 2n ** 64n - 1n

const slotAt = (slots: number, index: number) => regionsOf(slots).transactionSlots + index * Format.transactionSlotBytes

const initialHorizon = 7n

/** A header with free slots, published up to commit 10. */
const header = (slots: number, slot?: ReadonlyMap<number, bigint>): ReadonlyMap<number, bigint> =>
  new Map([
    [offsets.slots, BigInt(slots)],
    [offsets.nextTxnId, 1n],
    [offsets.commitSeq, 10n],
    [offsets.gcHorizon, initialHorizon],
    ...[...slot ?? []].map(([word, value]) => [slotAt(slots, 0) + word, value] as const)
  ])

const slotsOf = ({ liveness, note, region }: Surroundings) =>
  makeTransactionSlots({
    region: () => region,
    liveness,
    snapshot: Effect.sync(() => {
      const commitSeq = region.load(offsets.commitSeq)
      note("snapshot", commitSeq)
      return { commitSeq: CommitSeq.make(commitSeq), schemaEpoch: SchemaEpoch.make(0n), ecsEpoch: 0n }
    })
  })

/** Runs some transactions, one after the other, each in a scope of its own. */
const transact = (times = 1): Program => (surroundings) => {
  const { mark, note, pause } = surroundings
  const slots = slotsOf(surroundings)
  return Effect.scoped(
    Effect.gen(function*() {
      mark("begin")
      note("snapshot", none)
      const slot = yield* slots.claim({ mode: "concurrent" })
      note("id", slot.token.id)
      note("index", BigInt(slot.index))
      mark("in")
      pause()
      if (slot.isMarkedForAbort()) mark(`transaction ${slot.token.id} is to abort`)
      mark("leaving")
    })
  ).pipe(
    Effect.catch((error) =>
      Effect.sync(() => {
        mark("leaving")
        mark(error._tag)
      })
    ),
    Effect.replicateEffect(times, { discard: true })
  )
}

const once = transact()

/** A transaction that stays where it is. */
const stay: Program = (surroundings) =>
  slotsOf(surroundings).claim({ mode: "concurrent" }).pipe(
    // Nothing ends it.
    Scope.provide(Scope.makeUnsafe()),
    Effect.match({
      onFailure: () => surroundings.mark("leaving"),
      onSuccess: (slot) => {
        surroundings.note("id", slot.token.id)
        surroundings.note("index", BigInt(slot.index))
        surroundings.mark("in")
      }
    })
  )

const cleanDead: Program = (surroundings) =>
  Effect.map(slotsOf(surroundings).cleanDead, (count) => surroundings.mark(`cleaned ${count}`))

/** Reads what is published, and moves the horizon. */
const moveHorizon: Program = (surroundings) =>
  Effect.sync(() => {
    const published = surroundings.region.load(offsets.commitSeq)
    surroundings.note("horizon", slotsOf(surroundings).updateHorizon(toCommitSeq(published)))
  })

/** Publishes, and moves the horizon each time. */
const publish = (commits: number): Program => (surroundings) =>
  Effect.sync(() => {
    const slots = slotsOf(surroundings)
    for (let commit = 1; commit <= commits; commit++) {
      const published = 10n + BigInt(commit)
      surroundings.region.store(offsets.commitSeq, published)
      surroundings.note("horizon", slots.updateHorizon(toCommitSeq(published)))
    }
  })

const markFor = (id: bigint): Program => (surroundings) =>
  Effect.sync(() => {
    const token = { id: toTxnId(id), epoch: TxnEpoch.make(2 ** 30) }
    surroundings.mark(`marked: ${slotsOf(surroundings).markForAbort(token)}`)
  })

const word = ({ words }: WorldState, offset: number) => words.get(offset) ?? 0n

const isIn = (party: PartyState) => party.status !== "killed" && isBetween(party, "in", "leaving")

/** Has its snapshot, and is not over. */
const isReading = (party: PartyState) =>
  party.status !== "killed" && party.notes.has("snapshot") && !isBetween(party, "leaving", "begin")

const check = (slots: number) => (state: WorldState): void => {
  const horizon = word(state, offsets.gcHorizon)
  const taken = new Set<bigint>()
  if (horizon > word(state, offsets.commitSeq)) assert.fail("the horizon is above what is published")
  for (const party of state.parties) {
    const { notes, self } = party
    if (isReading(party) && horizon > (notes.get("snapshot") ?? 0n)) {
      assert.fail(`the horizon ${horizon} passed the snapshot ${notes.get("snapshot")} of process ${self.pid}`)
    }
    const answered = notes.get("horizon")
    if (answered !== undefined) {
      if (answered < initialHorizon) assert.fail("an answer is below the horizon that was there")
      if (horizon < answered) assert.fail("the horizon went back")
    }
    if (!isIn(party)) continue
    const index = notes.get("index") ?? 0n
    if (taken.has(index)) assert.fail("a slot has two transactions")
    taken.add(index)
    const slot = slotAt(slots, Number(index))
    same(word(state, slot + Format.words.holder), notes.get("id"), "the holder of the slot")
    same(word(state, slot + Format.words.owner) >> 32n, BigInt(self.pid), "its pid")
    same(word(state, slot + Format.words.birth), self.birth, "its birth")
    same(word(state, slot + Format.words.beginSeq), notes.get("snapshot"), "its begin sequence")
  }
}

/** All words of all slots are zero; a mark to abort that came late does not count. */
const checkEmpty = (slots: number) => (state: WorldState): void => {
  for (const [offset, value] of state.words) {
    const inSlots = offset - slotAt(slots, 0)
    if (inSlots < 0 || inSlots >= slots * Format.transactionSlotBytes) continue
    if (inSlots % Format.transactionSlotBytes === Format.words.flags) continue
    assert.fail(`the word at ${inSlots % Format.transactionSlotBytes} of a free slot is ${value}`)
  }
}

/** Whoever comes later gets every slot, leaves them empty, and finds the horizon at what is published. */
const checkNextOne = (slots: number) => (state: WorldState): void => {
  let after = runAlone(state, cleanDead, 0)
  for (let index = 0; index < slots; index++) after = runAlone(after, once, 0)
  for (const { marks } of after.parties.slice(-slots)) assert.deepStrictEqual(marks, ["begin", "in", "leaving"])
  checkEmpty(slots)(after)
  after = runAlone(after, moveHorizon, 0)
  assert.strictEqual(word(after, offsets.gcHorizon), word(after, offsets.commitSeq))
}

/** What a process that is dead now has left behind, after each of its steps. */
const leftovers = (() => {
  const dead = { pid: 99, birth: 9n }
  const fields = {
    [Format.words.owner]: Format.toOwnerWord({ pid: dead.pid, epoch: 3 }),
    [Format.words.birth]: dead.birth,
    [Format.words.beginSeq]: 8n,
    [Format.words.snapshotHigh]: 8n,
    [Format.words.state]: Format.toStateWord({ state: "active", mode: "concurrent", witnessEpoch: 0 }),
    [Format.words.cleanupTxnId]: 77n
  }
  const slot = (holder: bigint, words: Readonly<Record<string, bigint>> = fields): ReadonlyMap<number, bigint> =>
    new Map([
      [Format.words.holder, holder],
      ...Object.entries(words).map(([offset, value]) => [Number(offset), value] as const)
    ])
  return {
    "claiming it (C1)": slot(Format.claimingWord(dead), {}),
    "claiming it, and saying who it was (C4)": slot(Format.claimingWord(dead)),
    "beginning its transaction (C7)": slot(77n),
    "ending its transaction (F1)": slot(Format.cleaningWord(dead)),
    "emptying it (F2)": slot(Format.cleaningWord(dead), {})
  }
})()

describe("TransactionSlots, in every order of two processes", () => {
  it("SHM-11 two that want the only slot: one has it, the other one is answered Busy or comes later", () => {
    explore({
      words: header(1),
      parties: [once, once],
      check: check(1),
      checkEnd: (state) => {
        assert.isTrue(state.parties.some(({ marks }) => marks.includes("in")))
        checkEmpty(1)(state)
      }
    })
  })

  it("SHM-11 one that claims, one that publishes and moves the horizon: it does not pass the snapshot", () => {
    const { states } = explore({
      words: header(1),
      parties: [transact(2), publish(3)],
      check: check(1),
      checkEnd: checkNextOne(1)
    })
    assert.isAbove(states, 1000)
  })

  it("SHM-11 the one that claims is killed between any two steps: its slot is cleaned, and the horizon moves on", () => {
    explore({
      words: header(1),
      parties: [once, once],
      kills: 1,
      check: check(1),
      checkEnd: checkNextOne(1)
    })
    explore({
      words: header(2),
      parties: [once, publish(2)],
      kills: 1,
      check: check(2),
      checkEnd: checkNextOne(2)
    })
  })

  it.each(Object.entries(leftovers))("SHM-11 behind a process that died while %s", (_, slot) => {
    const words = header(1, slot)
    explore({ words, parties: [stay, cleanDead], check: check(1), checkEnd: () => {} })
    explore({ words, parties: [once, once], kills: 1, check: check(1), checkEnd: checkNextOne(1) })
    explore({
      words,
      parties: [cleanDead, cleanDead],
      check: check(1),
      checkEnd: (state) => {
        checkEmpty(1)(state)
        const counts = state.parties.flatMap(({ marks }) => marks).sort()
        assert.deepStrictEqual(counts, ["cleaned 0", "cleaned 1"], "it is cleaned once")
      }
    })
  })

  it("SHM-12 two that move the horizon: it does not go back", () => {
    explore({
      words: header(1),
      parties: [publish(3), moveHorizon],
      check: check(1),
      checkEnd: (state) => assert.strictEqual(word(state, offsets.gcHorizon), 13n)
    })
    explore({ words: header(1), parties: [transact(2), moveHorizon], check: check(1), checkEnd: checkNextOne(1) })
  })

  it("a mark to abort reaches the transaction that was meant, and no other", () => {
    let reached = 0
    let missed = 0
    explore({
      words: header(1),
      parties: [transact(2), markFor(1n)],
      check: (state) => {
        check(1)(state)
        assert.notInclude(state.parties[0]?.marks ?? [], "transaction 2 is to abort")
      },
      checkEnd: (state) => {
        checkEmpty(1)(state)
        if (state.parties[0]?.marks.includes("transaction 1 is to abort") === true) {
          reached++
        } else {
          missed++
        }
      }
    })
    assert.isAbove(reached, 0)
    assert.isAbove(missed, 0)
  })
})

describe("TransactionSlots, three processes in random orders", () => {
  it("SHM-11 SHM-12 with leftovers and kills", () => {
    const starts = [undefined, ...Object.values(leftovers)]
    const [twice, thrice] = [transact(2), publish(3)]
    for (let seed = 0; seed < 600; seed++) {
      const slots = 1 + seed % 2
      wander({
        words: header(slots, starts[seed % starts.length]),
        parties: [twice, seed % 5 === 0 ? cleanDead : twice, seed % 3 === 0 ? once : thrice],
        kills: 2,
        check: check(slots),
        checkEnd: checkNextOne(slots)
      }, makeRandom(seed))
    }
  })
})

/**
 * The transaction slots of the shared-memory header, and the GC horizon.
 *
 * The first word of a slot is the lock on the other fifteen. It changes by compare-and-swap only, but for the last step
 * of an emptying. Whoever it names writes the others; nobody else does, but for the mark to abort. Each line is one atomic
 * operation, `tag P` names the process P (`TransactionSlotFormat`).
 *
 *     claim, by process P                          free, by P who has it
 *     C1  holder: 0 -> claiming P                  F1  holder: what P had put there -> cleaning P
 *     C2  birth, lease expiry, claiming time       F2  the words 8 ... 80 := 0
 *     C3  id := next transaction id (own CAS)      F3  holder := 0
 *     C4  cleanup id, owner (epoch, pid)
 *     C5  the snapshot S of the header is taken    clean, by any process X: after the holder was seen to be dead
 *     C6  begin and snapshot sequence := S,        K1  holder: what was seen -> cleaning X
 *         state, flags := 0                        K2  as F2
 *     C7  holder: claiming P -> id                 K3  holder := 0
 *
 *     horizon H of the published sequence p, read before
 *     H1  G := GC horizon; p := the smaller of it and the header's commit sequence
 *     H2  of each slot: load holder
 *           0, cleaning     nothing
 *           claiming        H is at most G
 *           an id           load begin, load holder again: H is at most begin if the id still stands there
 *     H3  H is p where nothing was smaller
 *     H4  (update) GC horizon: G -> H, by compare-and-swap, only upwards
 *
 * Invariants
 *
 * 1. A holder word other than 0 is the same claim, or the same emptying, whenever it is seen: an id is never used twice,
 *    and a process puts its own tag only on what was 0, its own, or of a dead one. So a CAS from what was seen fails
 *    exactly when something happened in between; of several cleaners one gets through K1, and none frees a slot that
 *    was claimed again.
 * 2. A slot that is not free names its process in the very word that takes it, or, when live, in words that were
 *    written before. Whoever is killed between two lines is found to be dead, and the next cleaner begins at K1. A live
 *    slot, and one that is being claimed, is kept until its lease is over too.
 * 3. The other words of a free slot are zero (but for a late mark to abort, see 5): who claims it finds nothing of the
 *    one before, and a cleaner that looks at a claim in C1 ... C2 finds no birth or its own.
 * 4. The GC horizon is never above the snapshot of a transaction that has a slot, or gets one later (SHM-11). Its snapshot
 *    is taken after C1. If the scan H2 looks at the slot before C1, the snapshot is not below the p of H1, because
 *    what is published does not fall. If after C7, its begin counts. In between it may have any snapshot since C1, and H
 *    is at most a horizon from before: for that the invariant held already, whatever the transaction read.
 *    A holder that changed within H2 was freed meanwhile; whoever is there now has claimed after H1.
 *    What is published falls only when a publisher finds the header ahead of the log; it lowers the horizon with it.
 * 5. A mark to abort is written by others into the flags, which therefore change by compare-and-swap. One that comes
 *    late hits the flags of the next transaction, and is not the mark of that one (`abortMarkOf`).
 *
 * What is left: a process that is killed within C1 ... C2 or while it empties a slot, and whose pid is then given to
 * another one, is taken for alive until that one ends too, or cleans up itself.
 */
import { invariant } from "@tidemark/core/Invariant"
import { type CommitSeq, toCommitSeq, TxnEpoch, type TxnId, type TxnToken } from "@tidemark/core/Scalars"
import type { ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import { Busy } from "../CoordinatorErrors.ts"
import type { HeaderSnapshot } from "../SharedHeader.ts"
import { offsets, regionsOf } from "../SharedHeaderFormat.ts"
import {
  abortMarkOf,
  claimingWord,
  cleaningWord,
  decode,
  fromFlagsWord,
  fromOwnerWord,
  isPredecessor,
  processOf,
  type SlotFlags,
  toFlagsWord,
  toOwnerWord,
  toStateWord,
  toTag,
  type TransactionMode,
  transactionSlotBytes,
  type TransactionState,
  words
} from "../TransactionSlotFormat.ts"
import type { ClaimedSlot, ListedSlot, TransactionSlots } from "../TransactionSlots.ts"
import { expiryOf, isOver, makeWhoLives } from "./serializedWriter.ts"
import { allocateTxnId, whyNoTxnId } from "./txnIds.ts"

/** When all slots are taken: some transaction ends about every so often. */
const retryAfterMillis = 1

const bitsOfPid = 31

/** Where the slots of a region lie. */
interface Layout {
  readonly region: SharedRegion
  readonly start: number
  readonly slots: number
}

const layoutOf = (region: SharedRegion): Layout => {
  const slots = Number(region.load(offsets.slots) & 0xffffffffn)
  const start = regionsOf(slots).transactionSlots
  invariant(start + slots * transactionSlotBytes <= region.bytes, "the slots of a header lie in its memory")
  return { region, start, slots }
}

/** Empties a slot. For who is named by its first word, as cleaning. */
const empty = (region: SharedRegion, slot: number): void => {
  for (let word: number = words.owner; word <= words.cleanupTxnId; word += 8) region.store(slot + word, 0n)
  region.store(slot + words.holder, 0n)
}

/**
 * Changes the flags of a transaction, which others mark at the same time. Answers whether it was there before and
 * after, and so in between.
 */
const changeFlags = (
  region: SharedRegion,
  slot: number,
  id: TxnId,
  change: (flags: SlotFlags) => Partial<SlotFlags>
): boolean => {
  while (true) {
    const found = region.load(slot + words.flags)
    if (region.load(slot + words.holder) !== id) return false
    const flags = fromFlagsWord(found)
    const changed = toFlagsWord({ ...flags, ...change(flags) })
    if (region.compareExchange(slot + words.flags, found, changed) === found) {
      return region.load(slot + words.holder) === id
    }
  }
}

/** A slot with a transaction in it. One is made for each transaction, so it is a class. */
class Claimed implements ClaimedSlot {
  readonly index: number
  readonly token: TxnToken
  readonly snapshot: HeaderSnapshot
  private readonly region: SharedRegion
  private readonly slot: number
  private readonly self: ProcessIdentity
  private readonly mode: TransactionMode

  constructor(
    layout: Layout,
    index: number,
    self: ProcessIdentity,
    mode: TransactionMode,
    token: TxnToken,
    snapshot: HeaderSnapshot
  ) {
    this.region = layout.region
    this.slot = layout.start + index * transactionSlotBytes
    this.index = index
    this.self = self
    this.mode = mode
    this.token = token
    this.snapshot = snapshot
  }

  isHeld(): boolean {
    return this.region.load(this.slot + words.holder) === this.token.id
  }

  setState(state: Exclude<TransactionState, "free">): void {
    if (this.isHeld()) {
      this.region.store(this.slot + words.state, toStateWord({ state, mode: this.mode, witnessEpoch: 0 }))
    }
  }

  setCommitting(seq: CommitSeq): void {
    if (!this.isHeld()) return
    this.region.store(this.slot + words.commitSeq, seq)
    this.setState("committing")
  }

  setFlags(flags: Parameters<ClaimedSlot["setFlags"]>[0]): void {
    changeFlags(this.region, this.slot, this.token.id, (found) => ({
      hasInRw: flags.hasInRw ?? found.hasInRw,
      hasOutRw: flags.hasOutRw ?? found.hasOutRw,
      writeSetPages: flags.writeSetPages ?? found.writeSetPages
    }))
  }

  isMarkedForAbort(): boolean {
    const { abortMark } = fromFlagsWord(this.region.load(this.slot + words.flags))
    return abortMark === abortMarkOf(this.token.id) && this.isHeld()
  }

  release(): void {
    free(this.region, this.slot, this.token.id, this.self)
  }
}

/** F1 ... F3. Answers whether the slot was still what its holder had put there. */
const free = (region: SharedRegion, slot: number, holder: bigint, self: ProcessIdentity): boolean => {
  if (region.compareExchange(slot + words.holder, holder, cleaningWord(self)) !== holder) return false
  empty(region, slot)
  return true
}

/** The transaction slots of the header that is mapped when it is asked. */
export const makeTransactionSlots = (parts: {
  readonly region: () => SharedRegion
  /** `undefined`: only this process sees the header. */
  readonly liveness: ProcessLiveness["Service"] | undefined
  /** Of the header that `region` answers. */
  readonly snapshot: Effect.Effect<HeaderSnapshot, Busy>
}): TransactionSlots => {
  const { isAlive, self } = makeWhoLives(parts.liveness)
  invariant(self.pid >= 1 && self.pid < 2 ** bitsOfPid, "a pid is 1 ... 2^31 - 1")
  const claiming = claimingWord(self)
  let lastLayout: Layout | undefined
  /** Where the last free slot was found: the first ones are taken by those that run longest. */
  let hint = 0
  /** Set anew for each header: one that was made anew may give out ids once more that were never committed. */
  let epochs: { readonly region: SharedRegion; readonly epoch: TxnEpoch } | undefined

  const layout = (): Layout => {
    const region = parts.region()
    return lastLayout?.region === region ? lastLayout : (lastLayout = layoutOf(region))
  }

  const epochIn = (region: SharedRegion): Effect.Effect<TxnEpoch> =>
    epochs?.region === region ? Effect.succeed(epochs.epoch) : Effect.map(
      Random.nextIntBetween(0, 2 ** 32, { halfOpen: true }),
      (random) => (epochs = { region, epoch: TxnEpoch.make(random) }).epoch
    )

  /** C1: the index of a slot that was free. */
  const takeFree = ({ region, slots, start }: Layout): number | undefined => {
    for (let i = 0; i < slots; i++) {
      const index = (hint + i) % slots
      const holder = start + index * transactionSlotBytes + words.holder
      if (region.load(holder) === 0n && region.compareExchange(holder, 0n, claiming) === 0n) {
        hint = index
        return index
      }
    }
    return undefined
  }

  /** The process behind a slot and its lease, as long as it is what was seen. `undefined`: there is nothing to clean. */
  const ownerOf = (region: SharedRegion, slot: number) => {
    const holder = region.load(slot + words.holder)
    const tag = toTag(holder)
    if (tag === "free" || tag === "unknown") return undefined
    const { pid } = fromOwnerWord(region.load(slot + words.owner))
    const birth = region.load(slot + words.birth)
    const leaseExpiry = region.load(slot + words.leaseExpiry)
    // Somebody who lives is at it.
    if (region.load(slot + words.holder) !== holder) return undefined
    return {
      holder,
      process: tag === "live" ? { pid, birth } : processOf(holder, birth),
      // The pid alone would say that it lives, for as long as this process does.
      isPredecessor: tag !== "live" && isPredecessor(holder, self),
      // While a slot is emptied, what is left of the lease is the one of the transaction before.
      leaseExpiry: tag === "cleaning" ? 0n : leaseExpiry
    }
  }

  const cleanDead = Effect.gen(function*() {
    const { region, slots, start } = layout()
    const nowMillis = yield* Clock.currentTimeMillis
    const known = new Map<string, boolean>()
    let cleaned = 0
    for (let index = 0; index < slots; index++) {
      const slot = start + index * transactionSlotBytes
      const seen = ownerOf(region, slot)
      if (seen === undefined || !isOver(seen.leaseExpiry, nowMillis)) continue
      const { birth, pid } = seen.process
      // Without a birth the next process of the same pid would be taken for the one that was asked about.
      const key = birth === 0n ? undefined : `${pid} ${birth}`
      const lives = !seen.isPredecessor &&
        ((key === undefined ? undefined : known.get(key)) ?? (yield* isAlive(seen.process)))
      if (key !== undefined) known.set(key, lives)
      if (!lives && free(region, slot, seen.holder, self)) cleaned++
    }
    if (cleaned > 0) yield* Effect.logInfo(`cleaned ${cleaned} transaction slots of dead processes in ${region.name}`)
    return cleaned
  })

  const claim: TransactionSlots["claim"] = ({ lease, mode }) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const current = layout()
        const { region, start } = current
        const nowMillis = yield* Clock.currentTimeMillis
        const leaseExpiry = expiryOf(nowMillis, lease)
        const epoch = yield* epochIn(region)
        let index = takeFree(current)
        if (index === undefined && (yield* cleanDead) > 0) index = takeFree(current)
        if (index === undefined) {
          return yield* new Busy({
            reason: `all ${current.slots} transaction slots of ${region.name} are taken`,
            retryAfterMillis
          })
        }
        const slot = start + index * transactionSlotBytes
        region.store(slot + words.birth, self.birth)
        region.store(slot + words.leaseExpiry, leaseExpiry)
        region.store(slot + words.claimingTime, BigInt(Math.floor(nowMillis / 1000)))
        const id = allocateTxnId(region)
        if (id === undefined) {
          free(region, slot, claiming, self)
          return yield* whyNoTxnId(region)
        }
        region.store(slot + words.cleanupTxnId, id)
        region.store(slot + words.owner, toOwnerWord({ epoch, pid: self.pid }))
        const snapshot = yield* restore(parts.snapshot).pipe(
          Effect.onError(() => Effect.sync(() => free(region, slot, claiming, self)))
        )
        region.store(slot + words.beginSeq, snapshot.commitSeq)
        region.store(slot + words.snapshotHigh, snapshot.commitSeq)
        region.store(slot + words.state, toStateWord({ state: "active", mode, witnessEpoch: 0 }))
        // A mark that was meant for the transaction before may have arrived since the slot was emptied.
        region.store(slot + words.flags, 0n)
        // Another header is mapped now, and the snapshot may be of that one, which does not know of this slot.
        const isReplaced = parts.region() !== region
        if (isReplaced || region.compareExchange(slot + words.holder, claiming, id) !== claiming) {
          free(region, slot, claiming, self)
          const reason = isReplaced
            ? `${region.name} was made anew`
            : "the slot was taken from this process as from a dead one"
          return yield* new Busy({ reason, retryAfterMillis })
        }
        const claimed = new Claimed(current, index, self, mode, { id, epoch }, snapshot)
        yield* Effect.addFinalizer(() => Effect.sync(() => claimed.release()))
        return claimed
      })
    )

  const horizon = (published: CommitSeq): CommitSeq => {
    const { region, slots, start } = layout()
    const floor = region.load(offsets.gcHorizon)
    const high = region.load(offsets.commitSeq)
    let lowest: bigint = published < high ? published : high
    for (let slot = start; slot < start + slots * transactionSlotBytes; slot += transactionSlotBytes) {
      const holder = region.load(slot + words.holder)
      if (holder === 0n) continue
      const tag = toTag(holder)
      if (tag === "cleaning") continue
      if (tag !== "live") {
        if (floor < lowest) lowest = floor
        continue
      }
      const begin = region.load(slot + words.beginSeq)
      if (begin < lowest && region.load(slot + words.holder) === holder) lowest = begin
    }
    return toCommitSeq(lowest)
  }

  /** Goes through the slots with that transaction in it: one, or none. */
  const slotOf = ({ region, slots, start }: Layout, { epoch, id }: TxnToken): number | undefined => {
    for (let slot = start; slot < start + slots * transactionSlotBytes; slot += transactionSlotBytes) {
      if (region.load(slot + words.holder) === id) {
        return fromOwnerWord(region.load(slot + words.owner)).epoch === epoch ? slot : undefined
      }
    }
    return undefined
  }

  return {
    claim,
    horizon,
    updateHorizon: (published) => {
      const reached = horizon(published)
      const { region } = layout()
      let found = region.load(offsets.gcHorizon)
      while (found < reached) {
        const was = region.compareExchange(offsets.gcHorizon, found, reached)
        if (was === found) break
        found = was
      }
      return reached
    },
    cleanDead,
    markForAbort: (token) => {
      const current = layout()
      const slot = slotOf(current, token)
      const abortMark = abortMarkOf(token.id)
      return slot !== undefined && changeFlags(current.region, slot, token.id, () => ({ abortMark }))
    },
    list: () => {
      const { region, slots, start } = layout()
      const listed: Array<ListedSlot> = []
      for (let index = 0; index < slots; index++) {
        const slot = start + index * transactionSlotBytes
        // While the first word stands its holder alone changes the others.
        const holder = region.load(slot + words.holder)
        if (holder === 0n) continue
        const decoded = decode(region.copy(slot, transactionSlotBytes))
        if (Result.isSuccess(decoded) && region.load(slot + words.holder) === holder) {
          listed.push({ index, ...decoded.success })
        }
      }
      return listed
    }
  }
}

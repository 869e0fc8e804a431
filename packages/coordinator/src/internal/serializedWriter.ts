/**
 * The serialized writer of the shared-memory header: four words, id, owner (pid and generation), birth, lease expiry.
 *
 * The owner word is the lock. It changes by compare-and-swap only, and never has the same value twice: a generation is
 * taken once, and `clearing`, the top bit of the pid half, says that the named process is emptying the words. Whoever is
 * named writes the other three; nobody else does. Each line is one atomic operation.
 *
 *     acquire                                      release, by its process p
 *     A1  owner: (0, g) -> (p, g + 1)              R1  owner: (p, g) -> (clearing p, g)
 *     A2  birth := b                               R2  id := 0
 *     A3  lease expiry := e, 0 for none            R3  birth := 0
 *     A4  id: 0 -> T                               R4  lease expiry := 0
 *                                                  R5  owner := (0, g)
 *
 *     clear a stale one, by any process x: after it was seen to be stale
 *     X1  owner: what was seen -> (clearing x, g)  g is the next generation unless (p, g) was seen
 *     X2 ... X5 as R2 ... R5
 *
 * A look loads owner, id, birth and lease, and again owner and id: what it has seen is of one generation, because within
 * a generation each word is written once before the id is, and once after it was cleared.
 *
 * What others see in between, and what they may do:
 *
 * 1. (0, g) with id 0: free. Birth and lease are zero, or left behind by another program that gives its pid back before
 *    them; whoever acquires writes both.
 * 2. (p, g) with id 0, after A1 ... A3: being filled. Stale when p is dead, whatever the lease says; birth is 0, unknown,
 *    or p's.
 * 3. (p, g) with id T: held. No lease: stale when p is dead. A lease: stale when `now >= expiry`, whether p lives or not.
 *    The id is the last word that an acquirer writes, so one that was cleared by its lease writes nothing any more; its
 *    release fails at R1.
 * 4. (clearing x, g): being emptied. Stale when no process has the pid x; the lease says nothing, and birth is not x's.
 * 5. (0, g) with an id is left behind by none of these steps. It is another's acquisition that goes by the id first:
 *    with birth and lease zero it counts as alive, else the lease decides, and without one it is nobody's. One that
 *    never says who it is (its process was killed in between, the memory is damaged) is ended by the next publisher.
 *
 * So of all that have seen the same stale words one gets through X1, and a writer that came between makes it fail: its
 * generation is another one. Whoever is killed between two lines leaves one of these states, and the next one gets on.
 * The id goes first to zero among the words that say who, and the pid last: while the pid stands, nobody fills in what
 * somebody else is still emptying.
 *
 * What is left: a process that is killed within A1 ... A2 or R1 ... R5, whose pid is given to another process, is taken
 * for alive until that one ends too.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { TxnId } from "@tidemark/core/Scalars"
import type { ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Busy } from "../CoordinatorErrors.ts"
import type { SerializedWriter } from "../SerializedWriter.ts"
import { fromWriterWord, offsets, toWriterWord } from "../SharedHeaderFormat.ts"

/** The top bit of the pid half. Linux has pids below 2^22. */
const clearing = 0x80000000

/** After so long it makes sense to ask again: a serialized transaction takes about a sync. */
const retryAfterMillis = 1

interface Seen {
  readonly owner: bigint
  readonly id: bigint
  readonly birth: bigint
  readonly leaseExpiry: bigint
}

const look = (region: SharedRegion): Seen => {
  while (true) {
    const owner = region.load(offsets.writerOwner)
    const id = region.load(offsets.writerTxnId)
    const birth = region.load(offsets.writerBirth)
    const leaseExpiry = region.load(offsets.writerLeaseExpiry)
    // Somebody gets on each time that this goes round.
    if (region.load(offsets.writerOwner) === owner && region.load(offsets.writerTxnId) === id) {
      return { owner, id, birth, leaseExpiry }
    }
  }
}

/** The owner word without `clearing`, and whether it was there. */
const ownerOf = (word: bigint) => {
  const { generation, pid } = fromWriterWord(word)
  return { pid: pid & ~clearing, generation, isClearing: pid >= clearing }
}

const nextGeneration = (generation: number) => (generation + 1) >>> 0

const isFree = ({ id, owner }: Seen): boolean => id === 0n && ownerOf(owner).pid === 0

/** When a lease that begins now is over. Whole seconds, so never before it is. */
export const expiryOf = (nowMillis: number, lease: Duration.Input | undefined): bigint => {
  if (lease === undefined) return 0n
  const leaseMillis = Duration.toMillis(lease)
  invariant(Number.isFinite(leaseMillis) && leaseMillis > 0, "a lease lasts a finite time above zero")
  return BigInt(Math.ceil((nowMillis + leaseMillis) / 1000))
}

/** Whether a lease is over; one that is not set (0) is. */
export const isOver = (expiryUnixSeconds: bigint, nowMillis: number): boolean =>
  BigInt(Math.floor(nowMillis / 1000)) >= expiryUnixSeconds

/** The process that asks, and how it tells whether others live. Where there is no way to tell, all do. */
export const makeWhoLives = (liveness: ProcessLiveness["Service"] | undefined): {
  readonly self: ProcessIdentity
  readonly isAlive: (process: ProcessIdentity) => Effect.Effect<boolean>
} => ({
  self: liveness?.self ?? { pid: process.pid, birth: 0n },
  isAlive: liveness?.isAlive ?? (() => Effect.succeed(true))
})

/** Empties the words. For who is named by the owner word, as `clearing`. */
const empty = (region: SharedRegion, generation: number): void => {
  region.store(offsets.writerTxnId, 0n)
  region.store(offsets.writerBirth, 0n)
  region.store(offsets.writerLeaseExpiry, 0n)
  region.store(offsets.writerOwner, toWriterWord({ pid: 0, generation }))
}

/**
 * Ends a serialized writer that does not say who it is, which nobody else may (state 5): it would keep every other
 * transaction out for as long as the file exists. For somebody who has just got the right to publish: until then there was
 * nobody to commit with. If that writer is alive after all, between two stores of its own, it has lost its turn and the
 * words that it goes on to write name it, so that they are cleared with it.
 */
export const endUnnamedWriter = (region: SharedRegion): void => {
  const { birth, id, leaseExpiry, owner } = look(region)
  if (id === 0n || ownerOf(owner).pid !== 0 || birth !== 0n || leaseExpiry !== 0n) return
  region.compareExchange(offsets.writerTxnId, id, 0n)
}

/** The serialized writer of the header that is mapped when it is asked. */
export const makeSerializedWriter = (parts: {
  readonly region: () => SharedRegion
  /** `undefined`: only this process sees the header. */
  readonly liveness: ProcessLiveness["Service"] | undefined
}): SerializedWriter => {
  const { isAlive, self } = makeWhoLives(parts.liveness)
  invariant(self.pid >= 1 && self.pid < clearing, "a pid is 1 ... 2^31 - 1")

  /** Whether what was seen has to make room. */
  const isStale = Effect.fnUntraced(function*(seen: Seen) {
    const { isClearing, pid } = ownerOf(seen.owner)
    if (isClearing) return !(yield* isAlive({ pid, birth: 0n }))
    if (seen.id === 0n) return !(yield* isAlive({ pid, birth: seen.birth }))
    if (seen.leaseExpiry !== 0n) return isOver(seen.leaseExpiry, yield* Clock.currentTimeMillis)
    if (pid === 0) return seen.birth !== 0n
    return !(yield* isAlive({ pid, birth: seen.birth }))
  })

  /** Takes what was seen to be stale, and empties it. Answers whether nobody else had. */
  const takeAndEmpty = (region: SharedRegion, { id, owner }: Seen): boolean => {
    const { generation, isClearing, pid } = ownerOf(owner)
    const taken = isClearing || pid === 0 ? nextGeneration(generation) : generation
    // Everything that happened since would show in the owner word, but for an acquisition that goes by the id first.
    if (region.load(offsets.writerTxnId) !== id) return false
    const clearingWord = toWriterWord({ pid: self.pid + clearing, generation: taken })
    if (region.compareExchange(offsets.writerOwner, owner, clearingWord) !== owner) return false
    empty(region, taken)
    return true
  }

  const busyWith = ({ id, owner }: Seen): Busy => {
    const { pid } = ownerOf(owner)
    const who = pid === 0 ? "a process that has not said which" : `process ${pid}`
    const reason = id === 0n
      ? `${who} is about to become the serialized writer, or to stop being it`
      : `transaction ${id} of ${who} is the serialized writer`
    return new Busy({ reason, retryAfterMillis })
  }

  /** Clears what is stale until nothing is. Answers what is there now, and whether something was cleared. */
  const settle = Effect.fnUntraced(function*(region: SharedRegion) {
    let hasCleared = false
    let hasMissed = false
    while (true) {
      const seen = look(region)
      if (isFree(seen) || !(yield* isStale(seen))) return { seen, hasCleared, hasMissed }
      if (takeAndEmpty(region, seen)) {
        hasCleared = true
        const { pid } = ownerOf(seen.owner)
        yield* Effect.logInfo(
          `cleared the stale serialized writer of ${region.name}: transaction ${seen.id} of process ${pid}`
        )
      } else {
        hasMissed = true
      }
    }
  })

  /** A1 ... A4, on words that were seen to be free. Answers whether nobody else was quicker. */
  const take = (region: SharedRegion, { owner }: Seen, id: TxnId, leaseExpiry: bigint): boolean => {
    const generation = nextGeneration(ownerOf(owner).generation)
    const taken = toWriterWord({ pid: self.pid, generation })
    if (region.compareExchange(offsets.writerOwner, owner, taken) !== owner) return false
    region.store(offsets.writerBirth, self.birth)
    region.store(offsets.writerLeaseExpiry, leaseExpiry)
    if (region.compareExchange(offsets.writerTxnId, 0n, id) !== 0n) {
      // The id is somebody's who goes by the id first (state 5): it stays, the rest is as if nothing had been.
      region.store(offsets.writerBirth, 0n)
      region.store(offsets.writerLeaseExpiry, 0n)
      region.store(offsets.writerOwner, toWriterWord({ pid: 0, generation }))
      return false
    }
    return true
  }

  return {
    acquire: Effect.fnUntraced(function*(id, options) {
      const region = parts.region()
      while (true) {
        const { seen } = yield* settle(region)
        if (!isFree(seen)) return yield* busyWith(seen)
        const leaseExpiry = expiryOf(yield* Clock.currentTimeMillis, options?.lease)
        if (take(region, seen, id, leaseExpiry)) return
      }
    }),
    release: (id) => {
      const region = parts.region()
      const owner = region.load(offsets.writerOwner)
      const { generation, isClearing, pid } = ownerOf(owner)
      // The id belongs to this generation if the owner word is still the same at R1.
      if (region.load(offsets.writerTxnId) !== id || isClearing || pid !== self.pid) return false
      const clearingWord = toWriterWord({ pid: self.pid + clearing, generation })
      if (region.compareExchange(offsets.writerOwner, owner, clearingWord) !== owner) return false
      empty(region, generation)
      return true
    },
    holder: () => {
      const { birth, id, leaseExpiry, owner } = look(parts.region())
      if (id === 0n) return undefined
      const { generation, pid } = ownerOf(owner)
      // Only transaction ids are put there.
      return { id: id as TxnId, pid, generation, birth, leaseExpiryUnixSeconds: leaseExpiry }
    },
    clearStale: Effect.suspend(() => settle(parts.region())).pipe(
      Effect.flatMap(({ hasCleared, hasMissed, seen }) => {
        if (hasCleared) return Effect.succeed("cleared")
        if (isFree(seen)) return Effect.succeed("none")
        return hasMissed ? Effect.fail(busyWith(seen)) : Effect.succeed("alive")
      })
    )
  }
}

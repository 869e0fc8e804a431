/**
 * The seqlock of the shared-memory header: how three numbers are changed and read as one (SHM-04, SHM-05).
 *
 * The one publisher changes them in a window. Its steps, each one atomic store:
 *
 *     1. snapshot sequence := odd     (s + 1; left as it is where a dead publisher has left it odd)
 *     2. schema epoch
 *     3. commit sequence
 *     4. ECS epoch
 *     5. next commit sequence
 *     6. snapshot sequence := even    (the odd one + 1)
 *
 * A reader loads the sequence, the three, and the sequence again, and takes what it has seen only when both sequences
 * are the same even number. Invariants:
 *
 * 1. Two stable states have different sequences (64 bits, never reused), and between them the sequence was odd.
 * 2. A reader that has seen any store of steps 2 ... 5 sees step 1, or something later, in its second look at the
 *    sequence. A reader that has seen step 6 sees all of 2 ... 5.
 * 3. So what a reader takes was there as a whole, at one moment between its two looks; and a publisher that dies between
 *    any two steps leaves an odd sequence or a finished window, never a mixture that can be taken.
 *
 * Why 2 holds: every access is an operation of `Atomics`, and those have one total order that all threads agree on, in
 * which the steps of each keep their order. Plain accesses would do on x64, where loads are not moved past loads nor
 * stores past stores; on arm64 they are, and the payload would have to be guarded by fences that JavaScript does not
 * have. What V8 makes of `Atomics` there (`stlr` for stores, `ldar` for loads) keeps a store of the payload behind step
 * 1 and before step 6, and the second look at the sequence behind the loads of the payload. Between processes it is the
 * same memory and the same instructions.
 *
 * The schema epoch goes first so that whoever looks at the single words without the window (a debugger, a dump) never
 * finds a commit under a schema that is older than it.
 */
import { type SchemaEpoch, toCommitSeq } from "@tidemark/core/Scalars"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import type { HeaderSnapshot } from "../SharedHeader.ts"
import { offsets } from "../SharedHeaderFormat.ts"

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value)

/** Whether a snapshot sequence says that a window is open. */
export const isOpen = (sequence: bigint): boolean => (sequence & 1n) === 1n

/** Publishes in one window. */
export const writeWindow = (region: SharedRegion, state: HeaderSnapshot): void => {
  // Whatever could throw is done before the window opens.
  const schemaEpoch = u64(state.schemaEpoch)
  const commitSeq = u64(state.commitSeq)
  const ecsEpoch = u64(state.ecsEpoch)
  const nextCommitSeq = u64(state.commitSeq + 1n)
  const found = region.load(offsets.snapshotSequence)
  const open = isOpen(found) ? found : u64(found + 1n)
  const closed = u64(open + 1n)
  region.store(offsets.snapshotSequence, open)
  region.store(offsets.schemaEpoch, schemaEpoch)
  region.store(offsets.commitSeq, commitSeq)
  region.store(offsets.ecsEpoch, ecsEpoch)
  region.store(offsets.nextCommitSeq, nextCommitSeq)
  region.store(offsets.snapshotSequence, closed)
}

/** One look; `undefined` when a window was open, or opened meanwhile. */
const look = (region: SharedRegion): HeaderSnapshot | undefined => {
  const before = region.load(offsets.snapshotSequence)
  if (isOpen(before)) return undefined
  const schemaEpoch = region.load(offsets.schemaEpoch)
  const commitSeq = region.load(offsets.commitSeq)
  const ecsEpoch = region.load(offsets.ecsEpoch)
  if (region.load(offsets.snapshotSequence) !== before) return undefined
  // What a word holds is a u64: the check of the schema is for what comes from elsewhere, and takes a microsecond.
  return { commitSeq: toCommitSeq(commitSeq), schemaEpoch: schemaEpoch as SchemaEpoch, ecsEpoch }
}

/** How long a reader stays on the thread for a window that is open (SHM-04). A window lasts less than a microsecond. */
export const spinNanos = 50_000n

/** Looks between two looks at the clock: some 2 microseconds. */
const looksPerRound = 64

/** Where the clock stands still, as in tests, so many rounds are 50 microseconds. */
const maxRounds = 25

/**
 * Reads snapshots, and stays on the thread for an open window for 50 us at most.
 *
 * That is per window and not per reader: where a thousand fibers meet the window of a publisher that has died, the first
 * spends the 50 us and the others come back at once.
 */
export class WindowReader {
  readonly #region: () => SharedRegion
  readonly #nowNanos: () => bigint
  /** The odd sequence of the window that readers have spun for last, and until when they may. */
  #openSequence: bigint | undefined
  #spinUntilNanos = 0n

  constructor(region: () => SharedRegion, nowNanos: () => bigint) {
    this.#region = region
    this.#nowNanos = nowNanos
  }

  /** The snapshot, or `undefined` when the window stays open. */
  read(): HeaderSnapshot | undefined {
    return look(this.#region()) ?? this.#spin()
  }

  #spin(): HeaderSnapshot | undefined {
    const region = this.#region()
    const sequence = region.load(offsets.snapshotSequence)
    let now = this.#nowNanos()
    const isKnown = isOpen(sequence) && sequence === this.#openSequence
    if (!isKnown) this.#spinUntilNanos = now + spinNanos
    for (let round = 0; round < maxRounds && now < this.#spinUntilNanos; round++) {
      for (let i = 0; i < looksPerRound; i++) {
        const snapshot = look(region)
        if (snapshot !== undefined) return snapshot
      }
      now = this.#nowNanos()
    }
    this.#openSequence = sequence
    return undefined
  }
}

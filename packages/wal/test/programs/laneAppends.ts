/**
 * Measures appends to lanes, and prints one line of JSON: what each contestant took, round by round. It is the part
 * of `benchmarks/lanes.ts` that looks inside of this package.
 *
 * `node packages/wal/test/programs/laneAppends.ts ROUNDS SECONDS LANES RECORDS_PER_EPOCH IMAGE_BYTES`
 *
 * - `lanes`: batches of one record are appended in turn to each lane and encoded there; epochs are sealed and taken, and
 *   released while the next one gathers, as when somebody wrote them.
 * - `encode`: the same records, encoded one behind the other into one preallocated array. What lanes cost is the
 *   difference.
 * - `copy`: the floor. The same bytes, copied one behind the other into one preallocated array.
 *
 * The order of the contestants turns around from round to round.
 */
import type { CommitSeq, PageNumber, WalEpoch } from "@tidemark/core/Scalars"
import { LaneId, toCommitSeq, toPageNumber, toTxnId, TxnEpoch, TxnToken } from "@tidemark/core/Scalars"
import * as Result from "effect/Result"
import type { LaneBatch } from "../../src/internal/laneMemory.ts"
import { Lanes } from "../../src/internal/lanes.ts"
import {
  accountedBytes,
  decode,
  encodeHeader,
  recordBytes,
  type SegmentRecord,
  writeRecord
} from "../../src/SegmentFormat.ts"
import { epoch as epochOf } from "../support/laneBatches.ts"

const [rounds = 9, seconds = 0.3, laneCount = 4, recordsPerEpoch = 10_000, imageBytes = 100] = process.argv.slice(2)
  .map(Number)

const token = TxnToken.make({ id: toTxnId(1n), epoch: TxnEpoch.make(0) })
const before = new Uint8Array(0)
const image = new Uint8Array(imageBytes).fill(0xa5)
const encodedBytes = recordBytes(0, imageBytes, true)

/** The record that is written next: one object for all of them, because an engine has no use for more. */
class NextRecord implements SegmentRecord {
  readonly token = token
  readonly before = before
  readonly after = image
  walEpoch = epochOf(0)
  page = toPageNumber(1)
  begin = toCommitSeq(0n)
  end = this.begin

  set(walEpoch: WalEpoch, page: PageNumber, seq: CommitSeq): this {
    this.walEpoch = walEpoch
    this.page = page
    this.begin = seq
    this.end = seq
    return this
  }
}

const next = new NextRecord()

/** What an engine has for each commit until it is durable. */
class Commit implements LaneBatch {
  readonly accountedBytes = accountedBytes(0, imageBytes)
  readonly encodedBytes = encodedBytes
  readonly frames = 1
  readonly stagedAt = 0
  readonly walEpoch: WalEpoch
  readonly page: PageNumber
  readonly seq: CommitSeq

  constructor(walEpoch: WalEpoch, page: PageNumber, seq: CommitSeq) {
    this.walEpoch = walEpoch
    this.page = page
    this.seq = seq
  }

  fill(target: Uint8Array, view: DataView, offset: number): number {
    return writeRecord(target, view, offset, next.set(this.walEpoch, this.page, this.seq))
  }
}

interface Contestant {
  /** Handles the records of one epoch. */
  readonly epoch: () => void
}

const copy = (): Contestant => {
  const target = new Uint8Array(recordsPerEpoch * encodedBytes)
  const bytes = new Uint8Array(encodedBytes).fill(0xa5)
  return {
    epoch: () => {
      for (let at = 0; at < target.length; at += encodedBytes) target.set(bytes, at)
    }
  }
}

const encode = (): Contestant => {
  const target = new Uint8Array(recordsPerEpoch * encodedBytes)
  const view = new DataView(target.buffer)
  let epoch = 0
  let seq = toCommitSeq(0n)
  return {
    epoch: () => {
      const walEpoch = epochOf(++epoch)
      let at = 0
      for (let record = 0; record < recordsPerEpoch; record++) {
        seq = toCommitSeq(seq + 1n)
        at = writeRecord(target, view, at, next.set(walEpoch, toPageNumber(record + 1), seq))
      }
    }
  }
}

const lanes = (): Contestant => {
  const all = new Lanes<Commit>({
    laneCount,
    laneCapacityBytes: recordsPerEpoch * accountedBytes(0, imageBytes),
    overflowPolicy: "block",
    overflowLimitBytes: 0
  })
  const ids = Array.from({ length: laneCount }, (_, id) => LaneId.make(id))
  let epoch = 0
  let seq = toCommitSeq(0n)
  return {
    epoch: () => {
      const walEpoch = epochOf(++epoch)
      for (let record = 0; record < recordsPerEpoch;) {
        for (const id of ids) {
          if (record === recordsPerEpoch) break
          seq = toCommitSeq(seq + 1n)
          const outcome = all.append(id, new Commit(walEpoch, toPageNumber(++record), seq))
          if (outcome !== "stored") throw new Error("a lane was full")
        }
      }
      if (!all.canSeal) all.release(epochOf(epoch - 1))
      all.seal(walEpoch)
      const taken = all.takeSealed(walEpoch)
      if (epoch === 1) check(walEpoch, taken.buffers)
    }
  }
}

/** What the lanes hand out is the segment of the epoch, or there is nothing to measure. */
const check = (walEpoch: WalEpoch, buffers: ReadonlyArray<Uint8Array>) => {
  const bytes = Buffer.concat([encodeHeader(walEpoch, recordsPerEpoch), ...buffers])
  const { records } = Result.getOrThrow(decode(bytes, walEpoch))
  const last = records.at(-1)?.end
  if (records.length !== recordsPerEpoch || last !== BigInt(recordsPerEpoch)) {
    throw new Error(`${records.length} records up to ${last} are in an epoch of ${recordsPerEpoch}`)
  }
}

/** Handles epochs for at least so many milliseconds. */
const measure = ({ epoch }: Contestant, millis: number) => {
  const startedCpu = process.cpuUsage()
  const started = performance.now()
  let epochs = 0
  let passed = 0
  while (passed < millis) {
    epoch()
    epochs++
    passed = performance.now() - started
  }
  const { system, user } = process.cpuUsage(startedCpu)
  const records = epochs * recordsPerEpoch
  return { recordsPerSecond: records / passed * 1000, cpuNanosPerRecord: (user + system) * 1000 / records }
}

const contestants = [["copy", copy()], ["encode", encode()], ["lanes", lanes()]] as const
for (const [, contestant] of contestants) measure(contestant, seconds * 1000)

const results = Array.from({ length: rounds }, (_, round) => {
  const order = round % 2 === 0 ? contestants : contestants.toReversed()
  return Object.fromEntries(order.map(([name, contestant]) => [name, measure(contestant, seconds * 1000)]))
})
console.log(JSON.stringify({ encodedBytes, rounds: results }))

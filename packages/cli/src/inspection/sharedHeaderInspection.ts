/**
 * The shared-memory header of a database and its transaction slots (section 7 of `formats.md`).
 *
 * The file is read as any other: it is not mapped, and no lock is taken. Whoever has it mapped goes on changing it, word by
 * word, and two things follow:
 *
 * 1. The published numbers are shown as they stood together, if they did: a look that has seen the same even snapshot
 *    sequence before and after has seen them so (SHM-04). If none of some looks has, the header is being published, which
 *    is no damage, and what is shown may be of two moments.
 * 2. A slot that changes hands while it is read may be shown with words of both transactions.
 *
 * @since 0.1.0
 */
import * as SharedHeaderFormat from "@tidemark/coordinator/SharedHeaderFormat"
import * as TransactionSlotFormat from "@tidemark/coordinator/TransactionSlotFormat"
import type { CommitSeq } from "@tidemark/core/Scalars"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { isAnyTemporaryName, nameOf } from "@tidemark/wal/AtomicFile"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { isoTime } from "../Style.ts"
import {
  type Fields,
  type InspectedRecord,
  type Inspection,
  type OpenedFile,
  type Problem,
  problemOf,
  type RecordRange
} from "./Inspection.ts"

/**
 * Looks at an open file as a shared-memory header, on its own. Nothing in it is durable: what it should say is in the log
 * (RC-17).
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectSharedHeader = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, VfsError> {
  const { bytes, file } = opened
  const look = yield* lookAt(file)
  if (Result.isFailure(look)) {
    return {
      kind: "shared-memory-header",
      header: null,
      summary: {},
      problems: [look.failure],
      records: undefined
    }
  }
  const { contents, state } = look.success
  const regions = SharedHeaderFormat.regionsOf(contents.slots)
  const isBare = bytes === SharedHeaderFormat.sharedHeaderBytes
  const shortage = isBare ? undefined : SharedHeaderFormat.shortageOf(contents.slots, bytes)
  const table: SlotTable = {
    file,
    start: regions.transactionSlots,
    count: Math.max(
      0,
      Math.min(
        contents.slots,
        Math.floor((bytes - regions.transactionSlots) / TransactionSlotFormat.transactionSlotBytes)
      )
    )
  }
  const slots = yield* tallyOf(table)
  return {
    kind: "shared-memory-header",
    header: headerFields(contents, regions),
    summary: {
      published: state,
      publisher: contents.publisherPid === 0 ? "nobody" : `process ${contents.publisherPid}`,
      serializedWriter: contents.writerTxnId === 0n
        ? "nobody"
        : `transaction ${contents.writerTxnId} of process ${contents.writerPid}`,
      serializedWriterLeaseExpires: unixTime(contents.writerLeaseExpiryUnixSeconds),
      nextTransactionId: nextTransactionId(contents.nextTxnId),
      regions: isBare ? "none, the header alone" : shortage === undefined ? "whole" : "cut off",
      bytesToBeMapped: SharedHeaderFormat.mappedBytes(contents.slots),
      freeSlots: slots.counts.free,
      liveSlots: slots.counts.live,
      claimingSlots: slots.counts.claiming,
      cleaningSlots: slots.counts.cleaning,
      damagedSlots: slots.counts.unknown,
      lowestBeginSequence: slots.lowestBegin ?? null
    },
    problems: [
      ...shortage === undefined ? [] : [problemOf(shortage)],
      ...slots.problems,
      ...isBare ? [] : yield* nonZeros(opened, regions)
    ],
    records: { fieldNames: Object.keys(noFields), list: (range) => listSlots(table, range) }
  }
})

// -- the header -------------------------------------------------------------------------------------------------------

interface Look {
  readonly contents: SharedHeaderFormat.SharedHeaderContents
  /** Whether the published numbers belong together, in words. */
  readonly state: string
}

/** A publication takes less than a microsecond, a look some; whoever publishes all the time leaves gaps. */
const maxLooks = 16

const lookAt = Effect.fnUntraced(function*(
  file: VfsFile
): Effect.fn.Return<Result.Result<Look, Problem>, VfsError> {
  let before = -1n
  // The numbers were read between the sequences before and after them.
  let between: SharedHeaderFormat.SharedHeaderContents | undefined
  for (let looks = 1;; looks++) {
    const bytes = new Uint8Array(SharedHeaderFormat.sharedHeaderBytes)
    const seen = bytes.subarray(0, yield* file.read(bytes, 0))
    const decoded = SharedHeaderFormat.decode(seen)
    if (Result.isFailure(decoded)) return Result.fail(headerProblem(file.path, seen, problemOf(decoded.failure)))
    const contents = decoded.success
    const after = contents.snapshotSequence
    if (between !== undefined && before === after && between.snapshotSequence === after) {
      if (after % 2n === 0n) return Result.succeed({ contents: between, state: "as a whole" })
      // Nobody has closed the window meanwhile.
      if (looks >= maxLooks) return Result.succeed({ contents, state: openState(contents) })
    } else if (looks >= maxLooks) {
      return Result.succeed({ contents, state: "being changed: what is shown may be of two moments" })
    }
    before = between?.snapshotSequence ?? -1n
    between = contents
  }
})

const openState = ({ nextTxnId }: SharedHeaderFormat.SharedHeaderContents): string =>
  nextTxnId === 0n
    ? "nothing yet: the first publisher has still to say what is durable"
    : "in the middle of a publication: what is shown may be of two moments; if its publisher is dead the next one repairs it"

/** A header that is still being filled, or that never got its name, counts for nothing yet. */
const headerProblem = (path: string, bytes: Uint8Array, problem: Problem): Problem => {
  if (SharedHeaderFormat.isInitializing(bytes)) {
    const { pid } = SharedHeaderFormat.publisherOf(bytes)
    const who = pid === 0 ? "whoever makes it" : `process ${pid}`
    return { offset: 0, what: `the header is still being filled by ${who} (RC-27)`, severity: "tail" }
  }
  return isAnyTemporaryName(nameOf(path)) ? { ...problem, severity: "tail" } : problem
}

const headerFields = (
  contents: SharedHeaderFormat.SharedHeaderContents,
  regions: SharedHeaderFormat.HeaderRegions
): Fields => ({
  pageSize: contents.pageSize,
  transactionSlots: contents.slots,
  nextTxnId: contents.nextTxnId,
  snapshotSequence: contents.snapshotSequence,
  commitSequence: contents.commitSeq,
  schemaEpoch: contents.schemaEpoch,
  ecsEpoch: contents.ecsEpoch,
  gcHorizon: contents.gcHorizon,
  serializedWriterTxnId: contents.writerTxnId,
  serializedWriterPid: contents.writerPid,
  serializedWriterGeneration: contents.writerGeneration,
  serializedWriterPidBirth: contents.writerBirth,
  serializedWriterLeaseExpiryUnixSeconds: contents.writerLeaseExpiryUnixSeconds,
  lockTableOffset: regions.lockTable,
  witnessOffset: regions.witness,
  transactionSlotOffset: regions.transactionSlots,
  committedReadersOffset: regions.committedReaders,
  committedReadersBytes: regions.committedReadersBytes,
  nextCommitSequence: contents.nextCommitSeq,
  snapshotPublisherPid: contents.publisherPid,
  snapshotPublisherGeneration: contents.publisherGeneration,
  snapshotPublisherIsInitializing: contents.publisherIsInitializing,
  snapshotPublisherPidBirth: contents.publisherBirth
})

const nextTransactionId = (next: bigint): string =>
  next === 0n ? "not known yet" : next > SharedHeaderFormat.maxTxnId ? "none, all are used up" : `${next}`

/** `null` for 0, which says that there is none. */
const unixTime = (seconds: bigint): string | null => seconds === 0n ? null : isoTime(Number(seconds) * 1000)

// -- the regions ------------------------------------------------------------------------------------------------------

const chunkBytes = 64 * 1024

/** What has to be zeros behind the header: everything but the transaction slots. One problem for each stretch. */
const nonZeros = Effect.fnUntraced(function*(
  { bytes, file }: OpenedFile,
  regions: SharedHeaderFormat.HeaderRegions
): Effect.fn.Return<ReadonlyArray<Problem>, VfsError> {
  const stretches = [
    ["lock table", regions.lockTable, regions.witness],
    ["witness region", regions.witness, regions.transactionSlots],
    ["committed readers bitmap", regions.committedReaders, regions.end],
    ["space behind the regions", regions.end, bytes]
  ] as const
  const problems: Array<Problem> = []
  const buffer = new Uint8Array(chunkBytes)
  for (const [name, from, to] of stretches) {
    for (let at = from; at < Math.min(to, bytes); at += chunkBytes) {
      const length = yield* file.read(buffer.subarray(0, Math.min(to, bytes) - at), at)
      const found = buffer.subarray(0, length).findIndex((byte) => byte !== 0)
      if (found < 0) continue
      problems.push({
        offset: at + found,
        what: `the ${name} is ${buffer[found]} here, expected zeros: nothing uses it`,
        severity: "corrupt"
      })
      break
    }
  }
  return problems
})

// -- the transaction slots --------------------------------------------------------------------------------------------

interface SlotTable {
  readonly file: VfsFile
  readonly start: number
  /** Those that the file has room for. */
  readonly count: number
}

interface CheckedSlot {
  readonly index: number
  readonly offset: number
  readonly slot: Result.Result<TransactionSlotFormat.TransactionSlot, Problem>
}

const slotBytes = TransactionSlotFormat.transactionSlotBytes
const slotsInBlock = chunkBytes / slotBytes

const readSlots = ({ count, file, start }: SlotTable, from: number): Stream.Stream<CheckedSlot, VfsError> =>
  from >= count ? Stream.empty : Stream.paginate(
    from,
    Effect.fnUntraced(function*(first: number) {
      const bytes = new Uint8Array(Math.min(slotsInBlock, count - first) * slotBytes)
      const length = yield* file.read(bytes, start + first * slotBytes)
      const slots: Array<CheckedSlot> = []
      for (let at = 0; at + slotBytes <= length; at += slotBytes) {
        const offset = start + first * slotBytes + at
        const decoded = TransactionSlotFormat.decode(bytes.subarray(at, at + slotBytes))
        slots.push({
          index: first + at / slotBytes,
          offset,
          slot: Result.mapError(decoded, (issue) => {
            const problem = problemOf(issue)
            return { ...problem, offset: offset + problem.offset }
          })
        })
      }
      const next = first + slots.length
      return [slots, next < count && slots.length > 0 ? Option.some(next) : Option.none()] as const
    })
  )

const tallyOf = (table: SlotTable) =>
  Effect.suspend(() => {
    const tally = { free: 0, live: 0, claiming: 0, cleaning: 0, unknown: 0 }
    const problems: Array<Problem> = []
    let lowestBegin: CommitSeq | undefined
    return readSlots(table, 0).pipe(
      Stream.runForEach(({ index, slot }) =>
        Effect.sync(() => {
          if (Result.isFailure(slot)) {
            tally.unknown++
            problems.push({ ...slot.failure, what: `of transaction slot ${index} the ${slot.failure.what}` })
            return
          }
          const { beginSeq, tag } = slot.success
          tally[tag]++
          if (tag === "live" && (lowestBegin === undefined || beginSeq < lowestBegin)) lowestBegin = beginSeq
        })
      ),
      Effect.map(() => ({ counts: tally, problems, lowestBegin }))
    )
  })

const listSlots = (table: SlotTable, { from, to }: RecordRange): Stream.Stream<InspectedRecord, VfsError> =>
  readSlots(table, from).pipe(
    Stream.takeWhile(({ index }) => index <= to),
    Stream.map(({ index, offset, slot }) => ({
      index,
      offset,
      valid: Result.isSuccess(slot),
      fields: Result.isSuccess(slot) ? slotFields(slot.success) : noFields
    }))
  )

const slotFields = (slot: TransactionSlotFormat.TransactionSlot): Fields => ({
  tag: slot.tag,
  txnId: TransactionSlotFormat.transactionOf(slot) ?? null,
  // Under a tag a process stands there; of a free slot it is 0.
  holder: slot.holder,
  txnEpoch: slot.epoch,
  pid: slot.pid,
  pidBirth: slot.birth,
  leaseExpiryUnixSeconds: slot.leaseExpiryUnixSeconds,
  beginSequence: slot.beginSeq,
  commitSequence: slot.commitSeq,
  snapshotHigh: slot.snapshotHigh,
  state: slot.state,
  mode: slot.mode,
  witnessEpoch: slot.witnessEpoch,
  flags: { hasInRw: slot.hasInRw, hasOutRw: slot.hasOutRw, isMarkedForAbort: isMarked(slot) },
  markedForAbort: slot.abortMark,
  writeSetPages: slot.writeSetPages,
  claimingTimeUnixSeconds: slot.claimingUnixSeconds,
  cleanupTxnId: slot.cleanupTxnId
})

/** The mark of another transaction, which has arrived too late, means nothing. */
const isMarked = (slot: TransactionSlotFormat.TransactionSlot): boolean => {
  const id = TransactionSlotFormat.transactionOf(slot)
  return id !== undefined && slot.abortMark === TransactionSlotFormat.abortMarkOf(id)
}

/** Of a slot that does not check. */
const noFields: Fields = {
  tag: null,
  txnId: null,
  holder: null,
  txnEpoch: null,
  pid: null,
  pidBirth: null,
  leaseExpiryUnixSeconds: null,
  beginSequence: null,
  commitSequence: null,
  snapshotHigh: null,
  state: null,
  mode: null,
  witnessEpoch: null,
  flags: null,
  markedForAbort: null,
  writeSetPages: null,
  claimingTimeUnixSeconds: null,
  cleanupTxnId: null
}

/**
 * A segment of the parallel WAL, record by record (section 3 of `formats.md`).
 *
 * @since 0.1.0
 */
import { WalEpoch } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import { nameOf } from "@tidemark/wal/AtomicFile"
import {
  certifiedChecksum,
  decode,
  decodeHeader,
  entries,
  epochOfSegmentName,
  isTemporarySegmentName,
  type SegmentEntry,
  type SegmentHeader,
  segmentHeaderBytes,
  segmentPath,
  storedChecksum
} from "@tidemark/wal/SegmentFormat"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { OperationFailed } from "../ExitCode.ts"
import {
  type Fields,
  type InspectedRecord,
  type Inspection,
  type OpenedFile,
  type Problem,
  problemOf,
  type RecordRange
} from "./Inspection.ts"
import { readWhole } from "./wholeFile.ts"

/**
 * Looks at an open file as a segment, on its own: whether a certificate vouches for it is for `verify`.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectParallelSegment = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, OperationFailed | VfsError> {
  const { epochOfName, isTemporary } = nameSays(nameOf(opened.file.path))
  const headerBytes = new Uint8Array(Math.min(segmentHeaderBytes, opened.bytes))
  yield* opened.file.read(headerBytes, 0)
  const decoded = decodeHeader(headerBytes)
  const severity = isTemporary ? "tail" : "corrupt"
  const atSeverity = (problem: Problem): Problem => ({ ...problem, severity })
  if (Result.isFailure(decoded)) {
    return {
      kind: "parallel-segment",
      header: null,
      summary: {},
      problems: [atSeverity(problemOf(decoded.failure))],
      records: undefined
    }
  }
  const header = decoded.success
  const bytes = yield* readWhole(opened)
  const { problems, summary } = lookThrough(bytes, header, epochOfName)
  return {
    kind: "parallel-segment",
    header: { version: header.version, epoch: header.epoch, recordCount: header.recordCount },
    summary,
    problems: problems.map(atSeverity),
    records: {
      fieldNames: Object.keys(noFields),
      list: (range) => Stream.suspend(() => Stream.fromIterable(listRecords(bytes, header, range)))
    }
  }
})

/** How long the end of a name is that tells a segment from its database. */
const nameEndLength = segmentPath("", WalEpoch.make(0n)).length

/**
 * What the name says: the epoch of a segment, or that the file is one that has never become a segment, so that nothing in
 * it counts (PW-15). A copy under any other name says nothing.
 */
const nameSays = (name: string): { readonly epochOfName: WalEpoch | undefined; readonly isTemporary: boolean } => {
  const databaseOf = (segment: string) => segment.slice(0, -nameEndLength)
  return {
    epochOfName: epochOfSegmentName(databaseOf(name), name),
    isTemporary: isTemporarySegmentName(databaseOf(name.slice(0, name.lastIndexOf("."))), name)
  }
}

const lookThrough = (
  bytes: Uint8Array,
  header: SegmentHeader,
  epochOfName: WalEpoch | undefined
): { readonly summary: Fields; readonly problems: ReadonlyArray<Problem> } => {
  const problems: Array<Problem> = []
  const pages = new Set<number>()
  const transactions = new Set<string>()
  let records = 0
  let abortedRecords = 0
  let imageBytes = 0
  let low: bigint | undefined
  let high: bigint | undefined
  let isWhole = true
  for (const { issue, record } of entries(bytes, header)) {
    if (issue !== undefined) {
      isWhole = false
      problems.push(problemOf(issue))
      continue
    }
    if (record === undefined) continue
    records++
    if (record.end === undefined) abortedRecords++
    imageBytes += record.before.length + record.after.length
    pages.add(record.page)
    transactions.add(`${record.token.id} ${record.token.epoch}`)
    if (low === undefined || record.begin < low) low = record.begin
    if (high === undefined || record.begin > high) high = record.begin
  }
  const misnamed = decodeHeader(bytes, epochOfName)
  if (Result.isFailure(misnamed)) problems.unshift(problemOf(misnamed.failure))
  // Only what is not in a record is left to be found: bytes behind the last one.
  const decoded = isWhole ? decode(bytes) : undefined
  if (decoded !== undefined && Result.isFailure(decoded)) problems.push(problemOf(decoded.failure))
  return {
    problems,
    summary: {
      records,
      damagedRecords: header.recordCount - records,
      abortedRecords,
      transactions: transactions.size,
      pages: pages.size,
      imageBytes,
      lowestBeginSequence: low ?? null,
      highestBeginSequence: high ?? null,
      // What a certificate has to say of it; of what cannot be read as a whole none says anything.
      segmentCrc32c: decoded !== undefined && Result.isSuccess(decoded) ? certifiedChecksum([bytes]) : null
    }
  }
}

function* listRecords(
  bytes: Uint8Array,
  header: SegmentHeader,
  { from, to }: RecordRange
): Generator<InspectedRecord, void> {
  for (const entry of entries(bytes, header)) {
    const { index, offset, record } = entry
    if (index > to) return
    if (index >= from) yield { index, offset, valid: record !== undefined, fields: fieldsOf(bytes, header, entry) }
  }
}

/** The fields of a record that does not check mean nothing. */
const fieldsOf = (bytes: Uint8Array, header: SegmentHeader, entry: SegmentEntry): Fields => {
  const { record } = entry
  if (record === undefined) return noFields
  const { after, before, begin, end, page, token, walEpoch } = record
  return {
    txnId: token.id,
    txnEpoch: token.epoch,
    walEpoch,
    pageNumber: page,
    beginSequence: begin,
    endFlag: end === undefined ? 0 : 1,
    endSequence: end ?? null,
    beforeImageLength: before.length,
    afterImageLength: after.length,
    crc32c: storedChecksum(bytes, header, entry) ?? null
  }
}

const noFields: Fields = {
  txnId: null,
  txnEpoch: null,
  walEpoch: null,
  pageNumber: null,
  beginSequence: null,
  endFlag: null,
  endSequence: null,
  beforeImageLength: null,
  afterImageLength: null,
  crc32c: null
}

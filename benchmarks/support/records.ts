/**
 * Records of 100 bytes, one per writer, and the check that all of them are there afterwards.
 *
 * A record names its writer in the first 4 bytes (from 1 on: an area of zeros holds no record) and counts in the last 8.
 * The bytes between are noise, which no store compresses.
 */
import { getRandomValues } from "node:crypto"
import type { Counted } from "./writers.ts"

export const recordBytes = 100
const countAt = recordBytes - 8

/** The record of a writer. It is changed only after the commit before was durable, so nobody has to copy it early. */
export interface WriterRecord extends Counted {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly commits: () => number
}

const makeRecord = (writer: number): WriterRecord => {
  const bytes = getRandomValues(new Uint8Array(recordBytes))
  const view = new DataView(bytes.buffer)
  let commits = 0
  view.setUint32(0, writer + 1)
  return {
    bytes,
    count: () => view.setFloat64(countAt, ++commits),
    commits: () => commits
  }
}

export const makeRecords = (writers: number): ReadonlyArray<WriterRecord> =>
  Array.from({ length: writers }, (_, writer) => makeRecord(writer))

/** Looks at what a store holds, in its order. Throws at the first record that is missing, too many or out of place. */
export class RecordCheck {
  seen = 0
  private readonly counts: Float64Array
  private readonly noise: ReadonlyArray<Buffer>

  constructor(records: ReadonlyArray<WriterRecord>) {
    this.counts = new Float64Array(records.length)
    this.noise = records.map(({ bytes }) => Buffer.from(bytes.buffer, 4, countAt - 4))
  }

  readonly see = (found: Uint8Array): void => {
    if (found.length !== recordBytes) throw new Error(`a record of ${found.length} bytes`)
    const bytes = Buffer.from(found.buffer, found.byteOffset, found.length)
    const writer = bytes.readUInt32BE(0) - 1
    const count = bytes.readDoubleBE(countAt)
    const noise = this.noise[writer]
    if (noise === undefined || noise.compare(bytes, 4, countAt) !== 0) throw new Error("a record that nobody wrote")
    const expected = (this.counts[writer] ?? 0) + 1
    if (count !== expected) throw new Error(`writer ${writer + 1}: record ${count} stands where ${expected} belongs`)
    this.counts[writer] = count
    this.seen++
  }

  /** Everything has been seen: was it everything that was acknowledged? */
  end(records: ReadonlyArray<WriterRecord>): void {
    records.forEach((record, writer) => {
      const found = this.counts[writer]
      if (found === record.commits()) return
      throw new Error(`writer ${writer + 1}: ${record.commits()} records were acknowledged, ${found} are there`)
    })
  }
}

/** Checks all that a store holds. */
export const checkRecords = (records: ReadonlyArray<WriterRecord>, found: Iterable<Uint8Array>): void => {
  const check = new RecordCheck(records)
  for (const bytes of found) check.see(bytes)
  check.end(records)
}

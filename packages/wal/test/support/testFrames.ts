/**
 * A framing small enough to check by eye, in the shape of the append log's: 8-byte heads, lengths that are multiples
 * of 8, a 16-byte mark at the end of a batch. Tests read the raw bytes of a log back with it.
 */

const tags = { record: 0xaa, pad: 0xdd, seal: 0xcc } as const

export const sealBytes = 16

export type Frame =
  | {
    readonly kind: "record"
    readonly lsn: number
    readonly length: number
    readonly writer: number
    readonly index: number
  }
  | { readonly kind: "pad"; readonly lsn: number; readonly length: number }
  | {
    readonly kind: "seal"
    readonly lsn: number
    readonly length: number
    readonly earlierIsDurable: boolean
    readonly batchStart: number
    readonly batchBytes: number
  }

/** A record of `length` bytes, a multiple of 8, whose body repeats its writer's number. */
export const record = (writer: number, index: number, length = 8): Uint8Array => {
  if (length < 8 || length % 8 !== 0) throw new RangeError(`a record of ${length} bytes`)
  const bytes = new Uint8Array(length).fill(writer + 1)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, tags.record)
  view.setUint8(1, writer)
  view.setUint16(2, index)
  view.setUint32(4, length)
  return bytes
}

export const pad = (target: Uint8Array, view: DataView, offset: number, length: number): void => {
  target.fill(0, offset, offset + length)
  view.setUint8(offset, tags.pad)
  view.setUint32(offset + 4, length)
}

export const seal = (buffers: ReadonlyArray<Uint8Array>, lsn: number, earlierIsDurable: boolean): void => {
  const last = buffers.at(-1)
  if (last === undefined) throw new Error("a batch without buffers")
  const batchBytes = buffers.reduce((sum, buffer) => sum + buffer.length, 0)
  const view = new DataView(last.buffer, last.byteOffset + last.length - sealBytes, sealBytes)
  view.setUint8(0, tags.seal)
  view.setUint8(1, earlierIsDurable ? 1 : 0)
  view.setUint16(2, 0)
  view.setUint32(4, sealBytes)
  view.setUint32(8, lsn)
  view.setUint32(12, batchBytes)
}

/** Reads frames from `start` to the end of `bytes`; throws where there is none. */
export const parse = (bytes: Uint8Array, start = 0): ReadonlyArray<Frame> => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const frames: Array<Frame> = []
  for (let lsn = start; lsn < bytes.length;) {
    const length = view.getUint32(lsn + 4)
    if (length < 8 || lsn + length > bytes.length) throw new Error(`a frame of ${length} bytes at ${lsn}`)
    switch (view.getUint8(lsn)) {
      case tags.record: {
        const writer = view.getUint8(lsn + 1)
        for (let at = lsn + 8; at < lsn + length; at++) {
          if (view.getUint8(at) !== writer + 1) throw new Error(`a foreign byte in the record at ${lsn}`)
        }
        frames.push({ kind: "record", lsn, length, writer, index: view.getUint16(lsn + 2) })
        break
      }
      case tags.pad: {
        for (let at = lsn + 8; at < lsn + length; at++) {
          if (view.getUint8(at) !== 0) throw new Error(`a byte in the pad at ${lsn}`)
        }
        frames.push({ kind: "pad", lsn, length })
        break
      }
      case tags.seal: {
        frames.push({
          kind: "seal",
          lsn,
          length,
          earlierIsDurable: view.getUint8(lsn + 1) === 1,
          batchStart: view.getUint32(lsn + 8),
          batchBytes: view.getUint32(lsn + 12)
        })
        break
      }
      default:
        throw new Error(`no frame at ${lsn}`)
    }
    lsn += length
  }
  return frames
}

/** `"w0.1@8"` for a record, `"pad@16+8"`, `"seal@24"`: what a log holds, readable in an assertion. */
export const describeFrames = (bytes: Uint8Array, start = 0): ReadonlyArray<string> =>
  parse(bytes, start).map((frame) => {
    if (frame.kind === "record") return `w${frame.writer}.${frame.index}@${frame.lsn}`
    return frame.kind === "pad" ? `pad@${frame.lsn}+${frame.length}` : `seal@${frame.lsn}`
  })

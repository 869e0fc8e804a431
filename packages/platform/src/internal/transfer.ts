/**
 * The loops around system calls that may do less than they were asked to.
 *
 * Invariants:
 * 1. A write is all of the bytes, in order, or an error; a call that took none of them is an error too, so that no loop
 *    turns forever.
 * 2. One call is given at most `maxBuffersPerCall` buffers (IOV_MAX of Linux and macOS; more is EINVAL).
 * 3. A read ends when the buffer is full or a call answers 0 bytes, which is the end of the file and nothing else.
 *
 * The system call is a parameter, so that a test can make it as short as it likes.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"

export const maxBuffersPerCall = 1024

type Done<A> = (cause: unknown, value: A) => void

/** One call: writes some of the buffers at `position` and answers how many bytes. */
export type WriteSome = (buffers: ReadonlyArray<Uint8Array>, position: number, done: Done<number>) => void
export type WriteSomeSync = (buffers: ReadonlyArray<Uint8Array>, position: number) => number
/** One call: reads into the front of `buffer` from `position` on and answers how many bytes. */
export type ReadSome = (buffer: Uint8Array, position: number, done: Done<number>) => void
export type ReadSomeSync = (buffer: Uint8Array, position: number) => number

export const byteLengthOf = (buffers: ReadonlyArray<Uint8Array>): number => {
  let total = 0
  for (const buffer of buffers) total += buffer.length
  return total
}

/** What is left of `buffers` behind their first `count` bytes, without empty ones. */
const behind = (buffers: ReadonlyArray<Uint8Array>, count: number): ReadonlyArray<Uint8Array> => {
  const rest: Array<Uint8Array> = []
  let skip = count
  for (const buffer of buffers) {
    if (skip < buffer.length) rest.push(skip === 0 ? buffer : buffer.subarray(skip))
    skip = Math.max(0, skip - buffer.length)
  }
  return rest
}

const firstCall = (buffers: ReadonlyArray<Uint8Array>) =>
  buffers.length > maxBuffersPerCall ? buffers.slice(0, maxBuffersPerCall) : buffers

/** What the errors of the system and those of our own have in common. */
export interface CodedError {
  readonly code: string
  readonly message: string
}

export const withCode = ({ code, message }: CodedError) => Object.assign(new Error(message), { code })

/** A write that stood behind one that failed. */
export const notBegun: CodedError = { code: "ECANCELED", message: "a write before it has failed" }

const noProgress = () => withCode({ code: "EIO", message: "the system took none of the bytes" })

const checkWritten = (written: number, left: number) =>
  invariant(written >= 0 && written <= left, "a write answers between 0 and as many bytes as it was given")

export const writeFully = (
  writeSome: WriteSome,
  buffers: ReadonlyArray<Uint8Array>,
  position: number,
  done: Done<void>
): void => {
  let rest = buffers
  let left = byteLengthOf(buffers)
  if (left === 0) return done(null, undefined)
  let at = position
  const step = () =>
    writeSome(firstCall(rest), at, (cause, written) => {
      if (cause !== null) return done(cause, undefined)
      checkWritten(written, left)
      if (written === 0) return done(noProgress(), undefined)
      left -= written
      if (left === 0) return done(null, undefined)
      at += written
      rest = behind(rest, written)
      step()
    })
  step()
}

export const writeFullySync = (
  writeSome: WriteSomeSync,
  buffers: ReadonlyArray<Uint8Array>,
  position: number
): void => {
  let rest = buffers
  let left = byteLengthOf(buffers)
  let at = position
  while (left > 0) {
    const written = writeSome(firstCall(rest), at)
    checkWritten(written, left)
    if (written === 0) throw noProgress()
    left -= written
    if (left === 0) return
    at += written
    rest = behind(rest, written)
  }
}

export const readFully = (readSome: ReadSome, buffer: Uint8Array, position: number, done: Done<number>): void => {
  let filled = 0
  const step = () =>
    readSome(filled === 0 ? buffer : buffer.subarray(filled), position + filled, (cause, count) => {
      if (cause !== null) return done(cause, filled)
      filled += count
      if (count === 0 || filled >= buffer.length) return done(null, filled)
      step()
    })
  if (buffer.length === 0) return done(null, 0)
  step()
}

export const readFullySync = (readSome: ReadSomeSync, buffer: Uint8Array, position: number): number => {
  let filled = 0
  while (filled < buffer.length) {
    const count = readSome(filled === 0 ? buffer : buffer.subarray(filled), position + filled)
    if (count === 0) break
    filled += count
  }
  return filled
}

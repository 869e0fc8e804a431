/**
 * The bytes of a file, shared copy on write, so that thousands of possible disks can stand beside each other.
 *
 * 1. A chunk is never changed once it stands in an image; a write puts a new chunk in its place.
 * 2. The list of chunks belongs to one image, or is marked as shared in all that use it.
 * 3. Bytes from `size` on to the end of the last chunk are zero, so that growing needs no cleaning.
 */
import { invariant } from "@tidemark/core/Invariant"

const chunkBytes = 4096

/** @internal */
export class DiskImage {
  #chunks: Array<Uint8Array | undefined> = []
  #isShared = false
  #size = 0

  static of(bytes: Uint8Array): DiskImage {
    const image = new DiskImage()
    image.write(bytes, 0)
    return image
  }

  get size(): number {
    return this.#size
  }

  /** A second image with the same bytes, in constant time. */
  fork(): DiskImage {
    const twin = new DiskImage()
    twin.#chunks = this.#chunks
    twin.#size = this.#size
    twin.#isShared = true
    this.#isShared = true
    return twin
  }

  /** Answers how many bytes there were. A hole reads as zeros. */
  read(target: Uint8Array, position: number): number {
    const count = Math.max(0, Math.min(target.length, this.#size - position))
    let done = 0
    while (done < count) {
      const index = Math.floor((position + done) / chunkBytes)
      const start = position + done - index * chunkBytes
      const length = Math.min(chunkBytes - start, count - done)
      const chunk = this.#chunks[index]
      if (chunk === undefined) target.fill(0, done, done + length)
      else target.set(chunk.subarray(start, start + length), done)
      done += length
    }
    return count
  }

  /** Overwrites and extends; a gap between the old end and `position` reads as zeros. */
  write(bytes: Uint8Array, position: number): void {
    if (bytes.length === 0) return
    this.#own()
    let done = 0
    while (done < bytes.length) {
      const index = Math.floor((position + done) / chunkBytes)
      const start = position + done - index * chunkBytes
      const length = Math.min(chunkBytes - start, bytes.length - done)
      const chunk = this.#chunks[index]?.slice() ?? new Uint8Array(chunkBytes)
      chunk.set(bytes.subarray(done, done + length), start)
      this.#put(index, chunk)
      done += length
    }
    this.#size = Math.max(this.#size, position + bytes.length)
  }

  resize(size: number): void {
    if (size < this.#size) {
      this.#own()
      const count = Math.ceil(size / chunkBytes)
      if (this.#chunks.length > count) this.#chunks.length = count
      const last = this.#chunks[count - 1]
      if (last !== undefined) {
        const cut = last.slice()
        cut.fill(0, size - (count - 1) * chunkBytes)
        this.#chunks[count - 1] = cut
      }
    }
    this.#size = size
  }

  /** A copy of all bytes. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(this.#size)
    this.read(bytes, 0)
    return bytes
  }

  #own(): void {
    if (!this.#isShared) return
    this.#chunks = this.#chunks.slice()
    this.#isShared = false
  }

  #put(index: number, chunk: Uint8Array): void {
    // Filled up one by one: an array with gaps would become a slow dictionary.
    while (this.#chunks.length < index) this.#chunks.push(undefined)
    this.#chunks[index] = chunk
    invariant(!this.#isShared, "a shared list of chunks is never written")
  }
}

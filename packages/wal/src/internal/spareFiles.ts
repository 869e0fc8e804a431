/**
 * Files that are not needed any more, kept for the next ones of the same length: writing over one costs a file system a
 * fraction of what removing it and making another does.
 *
 * Invariants
 * 1. A file is handed out for its own length only: what is written over it ends where it ends, so that its size never has
 *    to be synced.
 * 2. The bytes of all of them stay within the bound.
 */

/** @internal */
export class SpareFiles {
  private readonly maxBytes: number
  private bytes = 0
  private readonly lengths = new Map<string, number>()
  /** By length, the one that was given up last at the end. */
  private readonly paths = new Map<number, Array<string>>()

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes
  }

  get isEmpty(): boolean {
    return this.lengths.size === 0
  }

  /** Answers whether there is room for it. */
  add(path: string, length: number): boolean {
    if (this.lengths.has(path) || this.bytes + length > this.maxBytes) return false
    this.bytes += length
    this.lengths.set(path, length)
    const paths = this.paths.get(length) ?? []
    paths.push(path)
    this.paths.set(length, paths)
    return true
  }

  /** One of this length; it stays a spare until it is forgotten. */
  find(length: number): string | undefined {
    return this.paths.get(length)?.at(-1)
  }

  /** Answers whether it was a spare. */
  forget(path: string): boolean {
    const length = this.lengths.get(path)
    if (length === undefined) return false
    this.lengths.delete(path)
    this.bytes -= length
    const paths = this.paths.get(length) ?? []
    // Nearly always the last one.
    paths.splice(paths.lastIndexOf(path), 1)
    if (paths.length === 0) this.paths.delete(length)
    return true
  }

  all(): ReadonlyArray<string> {
    return Array.from(this.lengths.keys())
  }
}

/** The state of a key-value store: what is durable, and what is on its way. */
import type { KeyValueCommand } from "../KeyValueFormat.ts"
import type { LoggedState } from "./loggedState.ts"

/** @internal */
export type Value = string | Uint8Array

/**
 * The durable values.
 *
 * @internal
 */
export class KeyValueState implements LoggedState<KeyValueCommand> {
  private readonly values = new Map<string, { readonly value: Value; readonly itemBytes: number }>()
  private bytes = 0

  get liveBytes(): number {
    return this.bytes
  }

  get size(): number {
    return this.values.size
  }

  get(key: string): Value | undefined {
    return this.values.get(key)?.value
  }

  keys(): Array<string> {
    return Array.from(this.values.keys())
  }

  readonly apply = (command: KeyValueCommand, itemBytes: number): void => {
    switch (command.type) {
      case "set": {
        this.bytes += itemBytes - (this.values.get(command.key)?.itemBytes ?? 0)
        this.values.set(command.key, { value: command.value, itemBytes })
        return
      }
      case "remove":
        return this.delete(command.key)
      case "clear": {
        this.values.clear()
        this.bytes = 0
        return
      }
      case "clearPrefix": {
        for (const key of this.values.keys()) if (key.startsWith(command.prefix)) this.delete(key)
      }
    }
  }

  private delete(key: string): void {
    const found = this.values.get(key)
    if (found === undefined) return
    this.values.delete(key)
    this.bytes -= found.itemBytes
  }

  readonly capture = (): ReadonlyArray<KeyValueCommand> =>
    Array.from(this.values, ([key, { value }]) => ({ type: "set", key, value }))
}

/**
 * A change that is on its way; `undefined` removes.
 *
 * @internal
 */
export interface PendingValue {
  readonly value: Value | undefined
}

/**
 * What the submitted changes that are not durable yet will make of the durable values, per key. The newest change of a
 * key counts; it is forgotten when it is durable itself.
 *
 * @internal
 */
export class PendingValues {
  private readonly durable: KeyValueState
  private readonly byKey = new Map<string, PendingValue>()

  constructor(durable: KeyValueState) {
    this.durable = durable
  }

  /** The value behind everything that was submitted. */
  latest(key: string): Value | undefined {
    const pending = this.byKey.get(key)
    return pending === undefined ? this.durable.get(key) : pending.value
  }

  /** Whether no change of the key is on its way. */
  isDurable(key: string): boolean {
    return !this.byKey.has(key)
  }

  /** Whether the key is not there, and nothing about it is on its way. */
  isAbsent(key: string): boolean {
    return this.isDurable(key) && this.durable.get(key) === undefined
  }

  /** Whether there is nothing at all, and nothing is on its way. */
  isEmpty(): boolean {
    return this.byKey.size === 0 && this.durable.size === 0
  }

  /** The keys with a prefix that a removal at this point concerns. */
  keys(prefix: string): ReadonlyArray<string> {
    const keys = new Set([...this.durable.keys(), ...this.byKey.keys()])
    return Array.from(keys).filter((key) => key.startsWith(prefix))
  }

  /** Notes a change of one key and answers what to forget. */
  set(key: string, value: Value): PendingValue {
    const pending = { value }
    this.byKey.set(key, pending)
    return pending
  }

  /** Notes the removal of keys and answers what to forget. */
  remove(keys: ReadonlyArray<string>): PendingValue {
    const pending = { value: undefined }
    for (const key of keys) this.byKey.set(key, pending)
    return pending
  }

  /** Forgets a change that is durable, of those keys that have not been changed since. */
  forget(keys: ReadonlyArray<string>, pending: PendingValue | undefined): void {
    for (const key of keys) if (this.byKey.get(key) === pending) this.byKey.delete(key)
  }
}

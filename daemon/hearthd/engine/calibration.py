"""What a model reads so that the range of its keys and values is seen: text of the kinds that it is asked for."""

PASSAGES = (
    # prose
    "The ferry left a little after six, while the harbour lamps were still burning. Nobody on deck spoke much; an old "
    "man in a green coat counted the gulls, lost his place, and began again. Years later Marta would say that she "
    "remembered the smell of diesel and oranges better than the war that she was leaving behind.",
    # a conversation
    "user: My tomato plants have yellow leaves at the bottom. What should I do?\n"
    "assistant: That is often a lack of nitrogen, or too much water. 1. Let the soil dry between waterings. 2. Feed "
    "them every two weeks. 3. Cut off what is already yellow.\n"
    "user: thanks!! and can I still eat the fruit?\nassistant: Yes, it is safe.\n",
    # a program
    'def fibonacci(n: int) -> list[int]:\n    """The first n numbers."""\n    a, b, found = 0, 1, []\n'
    "    for _ in range(n):\n        found.append(a)\n        a, b = b, a + b\n    return found\n\n\n"
    '#include <stdio.h>\nint main(void) { for (int i = 0; i < 10; ++i) printf("%d\\n", i * i); return 0; }\n',
    # records and numbers
    '{"id": 4711, "name": "pump-03", "readings": [21.5, -0.003, 1e6], "ok": true, "error": null}\n'
    "date,item,price\n2024-02-29,coffee,3.80\n1999-12-31,tea,0.95\n"
    "SELECT name, SUM(price) FROM sales WHERE day >= '2024-01-01' GROUP BY name;\n"
    "17 * 23 = 391, 7/8 = 0.875, 2^10 = 1024.",
    # other languages
    "Le train de nuit traverse la plaine; personne ne dort. Der Schlüssel liegt unter der dritten Stufe, wie immer. "
    "¿Cuántos años tenía tu abuela cuando llegó a la ciudad? Завтра будет дождь, возьми зонт. "
    "今天的天气很好,我们去公园吧。電車は九時に出ます。 السلام عليكم، كيف حالك؟",
    # instructions and markup
    "# Setting up the printer\n\n* Plug it in and wait for the **blue** light.\n* Open <http://192.168.0.17/setup?lang=en>.\n"
    '\n| step | minutes |\n|---|---:|\n| unpack | 5 |\n\n<p class="note">WARNING: Do NOT open the cover!</p>\n'
    "The integral of x^2 from 0 to 1 equals 1/3; hence f(x) = 3x^2 is a density.",
)
